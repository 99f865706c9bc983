"""A synthetic campaign on disk, written through the real records: plans, manifests, predictions.

`World` says what each move does to dev's domains and to the leaderboard; everything else (evidence,
policies, discoveries) is left to the code under test.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from aevo.config.policy import PolicySettings
from aevo.evidence import collector
from aevo.files.documents import write_json, write_text, write_yaml
from aevo.files.paths import Layout, RunLayout
from aevo.leaderboard import Entry
from aevo.meta import step
from aevo.policy import document as policies
from aevo.policy.document import first_policy
from aevo.records.campaign import Campaign, Pins
from aevo.records.change import Change
from aevo.records.evidence import Evidence
from aevo.records.leaderboard import Leaderboard, Submission
from aevo.records.manifest import CheckpointScore, Claims, Cost, Manifest, Selected, TrainingRun
from aevo.records.plan import Budget, CandidatePlan, Plan
from aevo.records.policy import Policy
from aevo.records.scores import Checkpoint, DomainScore, Prediction, TrainingResult
from aevo.substrate import catalogue as axes
from aevo.substrate.catalogue import Axis, Catalogue, Move
from aevo.substrate.frozen import SubstrateFile
from tests.conftest import REPO

CONSTITUTION = REPO / "constitution.txt"
START = {
    "bits": 0.70,
    "gravity": 0.75,
    "unit": 0.75,
    "numeral": 0.80,
    "cipher": 0.75,
    "equation": 0.50,
}
ITEMS = 100  # per domain
MOVES = 6  # per axis
SEEDS = [11, 12]
AXES = [
    # id, category, knob, transfer
    ("learning_rate", "schedule", "train.learning_rate", False),
    ("clip", "optimiser", "train.optimizer.clip", False),
    ("rank", "capacity", "train.lora.rank", False),
    ("mask", "loss", "train.loss.mask", False),
    ("mix_bits", "data_mixture", "data.mixture.bits", False),
    ("traces", "data_construction", "data.trace.style", False),
    ("warmup", "schedule", "train.schedule.warmup", False),
    ("weight_decay", "optimiser", "train.optimizer.weight_decay", False),
    ("mix_equation", "data_mixture", "data.mixture.equation", False),
    ("trace_equation", "data_construction", "data.trace.domains.equation", False),
    ("which_checkpoint", "checkpoint_selection", "train.checkpoints", False),
    ("rebalance", "data_mixture", "data.rebalance", True),
    ("reweigh", "checkpoint_selection", "select", True),
]


@cache
def catalogue() -> Catalogue:
    """Thirteen axes over seven categories, six moves each."""
    return Catalogue(
        axes=[
            Axis(
                id=name,
                category=category,
                brief=f"vary {knob}",
                knobs=[knob],
                transfer=transfer,
                moves=[
                    Move(id=f"m{i}", set={f"{knob}.x" if name == "reweigh" else knob: i})
                    for i in range(1, MOVES + 1)
                ],
            )
            for name, category, knob, transfer in AXES
        ]
    )


@dataclass
class Effect:
    """What a recipe key does: accuracy gains by domain (or of all), and the LB's gain."""

    dev: float = 0.0
    lb: float = 0.0
    domains: dict[str, float] = field(default_factory=dict)


@dataclass
class World:
    """Effects by `axis/move`; anything not named does nothing."""

    effects: dict[str, Effect]
    lb: float = 0.80

    def effect(self, change: Change) -> Effect:
        total = Effect()
        for axis in catalogue().axes:
            for move in axis.moves:
                if not all(change.set.get(key) == value for key, value in move.set.items()):
                    continue
                one = self.effects.get(f"{axis.id}/{move.id}", Effect())
                total.lb += one.lb
                for name in START:
                    gain = one.dev + one.domains.get(name, 0.0)
                    total.domains[name] = total.domains.get(name, 0.0) + gain
        return total

    def accuracies(self, change: Change, seed: int) -> dict[str, float]:
        """Per domain; seeds other than the first move one domain by 3 items."""
        shift = 0.0 if seed == SEEDS[0] else 0.03
        gains = self.effect(change).domains
        return {
            name: start + gains.get(name, 0.0) + (shift if name == "unit" else 0.0)
            for name, start in START.items()
        }


@dataclass
class FakeBoard:
    """Scores by the world, rounds to two decimals, keeps its record like a real board."""

    layout: Layout
    world: World
    quota: int = 6
    decimals: int = 2

    def submit(self, number: int, entries: list[Entry]) -> Leaderboard:
        path = self.layout.round(number).leaderboard
        submissions = []
        for entry in entries[: self.quota]:
            assert (entry.adapter / "adapter_model.safetensors").is_file()
            run = self.layout.round(number).candidate(entry.candidate).run(entry.run)
            whole = Change.model_validate_json((run.train / "whole.json").read_text())
            score = round(self.world.lb + self.world.effect(whole).lb, self.decimals)
            submissions.append(
                Submission(
                    candidate=entry.candidate,
                    run=entry.run,
                    checkpoint=entry.checkpoint,
                    adapter_sha256=entry.adapter_sha256,
                    dev=entry.dev,
                    score=score,
                )
            )
        record = Leaderboard(
            kind="fake",
            round=number,
            decimals=self.decimals,
            quota=self.quota,
            quota_left=self.quota - len(submissions),
            submissions=submissions,
        )
        write_json(path, record)
        return record


def digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


SINGLE = PolicySettings(
    stacks_per_round=1, stack_up_to=4
)  # single moves, and a stack of the likely


def start_campaign(root: Path, n_axes: int = 7, settings: PolicySettings | None = None) -> Layout:
    """campaign.yaml, the catalogue, a constitution and the operator's policy."""
    substrate = root.parent / "substrate"
    write_yaml(substrate / "axes.yaml", catalogue())
    interface = SubstrateFile(
        name="built",
        recipe="recipe.yaml",
        catalogue="axes.yaml",
        mutable=["recipe.yaml"],
        frozen=["axes.yaml"],
        commands={},
    )
    write_yaml(substrate / "substrate.yaml", interface)
    constitution = root.parent / "constitution.txt"
    write_text(constitution, CONSTITUTION.read_text())
    layout = Layout(root)
    pins = Pins(
        substrate="5" * 64,
        constitution=hashlib.sha256(constitution.read_bytes()).hexdigest(),
        base="b" * 64,
        dev_items="d" * 64,
    )
    campaign = Campaign(
        name=root.name,
        created="",
        pins=pins,
        substrate_path=str(substrate),
        constitution_path=str(constitution),
        base_path="",
        config={},
        versions={},
    )
    write_yaml(layout.campaign, campaign)
    policies.write(layout, first_policy(settings or PolicySettings(), catalogue(), n_axes))
    return layout


def write_round(layout: Layout, number: int, world: World) -> Policy:
    """Plan and manifests of a round; each explorer runs the first move of its brief."""
    policy = policies.read(layout, number)
    standing = Change(set={k: v for item in policy.standing for k, v in item.change.set.items()})
    plans = [CandidatePlan(id="c00", role="anchor", axis=None, seeds=SEEDS, agent_seed=0)]
    plans += [
        CandidatePlan(id=f"c{i:02d}", role="explorer", axis=axis, seeds=SEEDS[:1], agent_seed=i)
        for i, axis in enumerate(policy.axes, start=1)
    ]
    plan = Plan(
        round=number,
        campaign=layout.root.name,
        policy_sha256=policies.digest(policy),
        substrate_sha256="5" * 64,
        standing_recipe_sha256=digest(standing),
        budget=Budget(trainings=1, turns=9, wall_s=60),
        candidates=plans,
    )
    write_yaml(layout.round(number).plan, plan)
    for item in plans:
        write_candidate(layout, number, item, world, standing)
    return policy


def write_candidate(
    layout: Layout, number: int, plan: CandidatePlan, world: World, standing: Change
) -> None:
    """One candidate's runs, predictions and manifest."""
    known = axes.load(layout.root.parent / "substrate" / "axes.yaml")
    assigned = {move.id: move for move in known.assigned(plan.axis)} if plan.axis else {}
    ordered = plan.axis.moves if plan.axis and plan.axis.moves else list(assigned)
    found = assigned[ordered[0]] if assigned else None
    move = found.id if found else None
    change = found.change if found else Change()
    candidate = layout.round(number).candidate(plan.id)
    whole = Change(set=standing.set | change.set)
    seeds = plan.seeds
    runs = [
        write_run(candidate.run(index), world, whole, change, seed)
        for index, seed in enumerate(seeds, start=1)
    ]
    best = runs[0].checkpoints[-1]
    manifest = Manifest(
        campaign=layout.root.name,
        round=number,
        candidate=plan.id,
        role=plan.role,
        axis=plan.axis,
        status="ok",
        move=move,
        change=change,
        recipe_sha256=digest(whole),
        substrate_sha256="5" * 64,
        runs=runs,
        selected=Selected(
            run=1,
            checkpoint=best.name,
            criterion="dev",
            dev=best.dev,
            domains=best.domains,
            adapter_sha256=best.adapter_sha256,
        ),
        claims=Claims(summary="done", claimed_dev=round(best.dev, 3), findings=["it ran"]),
        cost=Cost(turns=3),
        agent="scripted",
    )
    write_json(candidate.manifest, manifest)


@cache
def prediction_lines(right: tuple[tuple[str, int], ...]) -> str:
    """Predictions of which the first n of each domain are correct."""
    rows = [
        Prediction(id=f"{name}-{i:03d}", domain=name, output="", answer_given="", correct=i < n)
        for name, n in right
        for i in range(ITEMS)
    ]
    return "".join(row.model_dump_json() + "\n" for row in rows)


def write_run(
    run: RunLayout, world: World, whole: Change, change: Change, seed: int
) -> TrainingRun:
    """Result, adapter folder and predictions of one run."""
    accuracies = world.accuracies(whole, seed)
    right = {
        name: sum((i + 0.5) / ITEMS < accuracy for i in range(ITEMS))
        for name, accuracy in accuracies.items()
    }
    dev = sum(right.values()) / (ITEMS * len(right))
    domains = {name: DomainScore(accuracy=n / ITEMS, n=ITEMS) for name, n in right.items()}
    write_text(run.predictions("step-000050"), prediction_lines(tuple(right.items())))
    write_text(run.train / "whole.json", whole.model_dump_json())
    write_text(run.adapter("step-000050") / "adapter_model.safetensors", "")
    result = TrainingResult(
        status="ok",
        steps=50,
        checkpoints=[Checkpoint(step=50, path="checkpoints/step-000050")],
        seed=seed,
        base_sha256="b" * 64,
        data_sha256="a" * 64,
    )
    write_json(run.result, result)
    return TrainingRun(
        number=run.number,
        seed=seed,
        status="ok",
        steps=50,
        final_loss=0.1,
        tokens=1,
        seconds=1.0,
        recipe_sha256=digest(whole),
        data_sha256=None,
        change=change,
        checkpoints=[
            CheckpointScore(
                name="step-000050",
                step=50,
                dev=dev,
                selection_score=dev,
                domains=domains,
                adapter_sha256=digest((whole, seed)),
            )
        ],
    )


def play(layout: Layout, number: int, world: World, quota: int = 6) -> Evidence:
    """A whole round: candidates, collector, meta."""
    write_round(layout, number, world)
    evidence = collector.collect(layout, number, FakeBoard(layout, world, quota))
    step.main([str(layout.root), str(number)])
    return evidence


def paper_world() -> World:
    """Round 1 and 2 improve both; round 3 lifts equation on dev alone; round 4 transfers."""
    return World(
        {
            "learning_rate/m1": Effect(dev=0.04, lb=0.02),
            "clip/m1": Effect(dev=-0.05, lb=-0.04),
            "mask/m1": Effect(dev=0.01, lb=0.0),
            "which_checkpoint/m1": Effect(dev=0.03, lb=0.02),
            "mix_equation/m2": Effect(domains={"equation": 0.40}, lb=0.0),
            "trace_equation/m2": Effect(domains={"equation": 0.30}, lb=0.01),
            "rebalance/m1": Effect(domains={"equation": -0.15, "bits": 0.02}, lb=0.02),
        }
    )


def files(root: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
