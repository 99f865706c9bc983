"""A campaign of aevo on a world: planning, what to submit, evidence, the rules' proposal and the
constitution are the code that real rounds run; only workers and training are replaced."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from aevo.config.schema import Config
from aevo.evidence.build import build
from aevo.evidence.collector import choose
from aevo.evidence.inputs import CandidateFacts, RoundFacts
from aevo.meta.rules import propose
from aevo.plan.candidates import make_plan
from aevo.policy import constitution, trials
from aevo.policy import document as policies
from aevo.policy.case import History
from aevo.policy.shipping import Finished, options
from aevo.records.campaign import Campaign, Pins
from aevo.records.change import Change
from aevo.records.discovery import Discovery
from aevo.records.evidence import Evidence
from aevo.records.leaderboard import Leaderboard, Submission
from aevo.records.manifest import CheckpointScore, Claims, Cost, Manifest, Selected, TrainingRun
from aevo.records.plan import CandidatePlan, Plan
from aevo.records.policy import MoveRef, Policy
from aevo.records.proposal import Verdict
from aevo.records.scores import DomainScore
from aevo.studies.simulation.space import Key, Recipe, Space, space_of
from aevo.studies.simulation.world import Run, World
from aevo.substrate.catalogue import Catalogue, Move
from aevo.work.scripted import order_of_trial

STEP = "step-000200"
NOWHERE = "0" * 64


@dataclass(frozen=True)
class Bench:
    """What does not change between campaigns: configuration, catalogue and the space it spans."""

    config: Config
    catalogue: Catalogue
    space: Space

    def for_seed(self, seed: int) -> "Bench":
        """The same for a campaign of that seed."""
        return replace(self, config=self.config.model_copy(update={"seed": seed}))


def bench_of(config: Config, catalogue: Catalogue) -> Bench:
    """The bench for a configuration and a catalogue."""
    return Bench(config, catalogue, space_of(catalogue))


@dataclass
class Round:
    """One simulated round: its policy, what was found, and the policy it led to."""

    policy: Policy
    facts: RoundFacts
    evidence: Evidence
    next: Policy
    verdict: Verdict
    runs: int


Alter = Callable[[list[RoundFacts]], list[RoundFacts]]
AlterEvidence = Callable[[Evidence], Evidence]


@dataclass(frozen=True)
class Parts:
    """Hooks between the stages, for ablations; by default nothing is changed."""

    policy: Callable[[Policy], Policy] = lambda policy: policy
    facts: Alter = lambda rounds: rounds
    evidence: AlterEvidence = lambda evidence: evidence
    judged: bool = True  # False: an ablation may break a rule of the constitution


@dataclass
class Simulated:
    """A whole campaign; `refused` are rules that a proposal broke."""

    rounds: list[Round] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def runs(self) -> int:
        return sum(item.runs for item in self.rounds)

    @property
    def recipe(self) -> Recipe:
        """The standing recipe that the campaign ends with."""
        return recipe_of(self.rounds[-1].next)

    @property
    def shipped(self) -> Recipe:
        """The recipe of the candidate that the campaign would ship (`aevo.release`)."""
        finished = [Finished(item.policy, item.evidence) for item in self.rounds]
        best = options(finished, self.rounds[-1].next)[0]
        made = self.rounds[best.round - 1]
        own = trials.moves_of(made.next.tried, best.round, best.candidate)
        return (*recipe_of(made.policy), *map(_key, own))


def recipe_of(policy: Policy) -> Recipe:
    """The standing changes as moves."""
    return tuple(map(_key, trials.standing_moves(policy)))


def _key(ref: MoveRef) -> Key:
    return ref.axis, ref.move


def simulate(bench: Bench, world: World, rounds: int, parts: Parts | None = None) -> Simulated:
    """Plays a campaign of that many rounds."""
    parts = parts or Parts()
    config, catalogue = bench.config, bench.catalogue
    campaign = _campaign()
    policy = policies.first_policy(config.policy, catalogue, config.worker.n - 1)
    policy = parts.policy(policy)
    found = Simulated()
    seen: list[RoundFacts] = []
    discoveries: list[Discovery] = []
    for _ in range(rounds):
        digest = policies.digest(policy)
        standing = recipe_of(policy)
        plan = make_plan(config, campaign, policy, digest, _digest(standing))
        facts, runs = _play(plan, policy, world, config.leaderboard.quota, catalogue)
        seen.append(facts)
        evidence = parts.evidence(build(parts.facts(seen)))
        proposal = propose(evidence, policy, catalogue)
        verdict = constitution.check(
            proposal, evidence, policy, History(catalogue, tuple(discoveries))
        )
        if parts.judged and not verdict.accepted:
            found.refused += [rule.text for rule in verdict.rules if not rule.passed]
        discoveries += proposal.discoveries
        found.rounds.append(Round(policy, facts, evidence, proposal.policy, verdict, runs))
        policy = proposal.policy
    return found


def _play(
    plan: Plan, policy: Policy, world: World, quota: int, catalogue: Catalogue
) -> tuple[RoundFacts, int]:
    """Runs every candidate and submits what the collector would submit."""
    standing = recipe_of(policy)
    candidates: list[CandidateFacts] = []
    boards: dict[tuple[str, int], Run] = {}
    runs = 0
    for item in plan.candidates:
        move, own = _tried(item, catalogue)
        seeds = item.seeds if item.role == "anchor" else item.seeds[:1]
        made = [world.run((*standing, *own), seed, plan.round) for seed in seeds]
        runs += len(made)
        boards |= {(item.id, number): run for number, run in enumerate(made, start=1)}
        candidates.append(_facts(item, plan, world, made, move))
    facts = RoundFacts(plan.round, policy, plan, tuple(candidates), None)
    submitted = [(one.candidate, one.selected.run) for one in choose(facts, quota) if one.selected]
    board = _board(plan.round, submitted, boards, quota, world.surface.preset.decimals)
    return RoundFacts(plan.round, policy, plan, tuple(candidates), board), runs


def _tried(item: CandidatePlan, catalogue: Catalogue) -> tuple[Move | None, Recipe]:
    """The move that the scripted worker tries first, and the catalogue's moves that it is."""
    moves = catalogue.assigned(item.axis) if item.axis else []
    if item.axis is None or not moves:
        return None, ()
    first = order_of_trial(moves, item.agent_seed)[0]
    return first, tuple(map(_key, item.axis.combines)) or ((item.axis.axis, first.id),)


def _digest(recipe: Recipe) -> str:
    return hashlib.sha256(repr(recipe).encode()).hexdigest()


def _facts(
    item: CandidatePlan, plan: Plan, world: World, runs: Sequence[Run], move: Move | None
) -> CandidateFacts:
    """The candidate's manifest and predictions, as the collector would find them."""
    recipe = _digest(runs[0].recipe)
    change = move.change if move else Change()
    made = [
        TrainingRun.model_construct(
            number=number,
            job=None,
            attempt=None,
            seed=seed,
            status="ok",
            steps=200,
            final_loss=None,
            tokens=0,
            seconds=0.0,
            recipe_sha256=recipe,
            data_sha256=None,
            change=change,
            failure=None,
            checkpoints=[
                CheckpointScore.model_construct(
                    name=STEP,
                    step=200,
                    dev=run.dev,
                    selection_score=run.dev,
                    domains=_domains(world, run),
                    adapter_sha256=NOWHERE,
                )
            ],
        )
        for number, (run, seed) in enumerate(zip(runs, item.seeds, strict=False), start=1)
    ]
    first = made[0].checkpoints[0]
    manifest = Manifest.model_construct(
        schema_version=1,
        campaign=plan.campaign,
        round=plan.round,
        candidate=item.id,
        role=item.role,
        axis=item.axis,
        status="ok",
        failure=None,
        move=move.id if move else None,
        change=change,
        recipe_sha256=recipe,
        substrate_sha256=plan.substrate_sha256,
        runs=made,
        selected=Selected.model_construct(
            run=1,
            checkpoint=STEP,
            criterion="dev",
            dev=first.dev,
            domains=first.domains,
            adapter_sha256=NOWHERE,
        ),
        claims=Claims(),
        cost=Cost(turns=0),
        agent="scripted",
    )
    return CandidateFacts(
        plan=item,
        status="ok",
        manifest=manifest,
        sha256=NOWHERE,
        correct=_by_id(world, runs[0]),
        domain_of=world.domain_by_id,
        replicates=tuple(_by_id(world, run) for run in runs[1:]),
    )


def _by_id(world: World, run: Run) -> dict[str, bool]:
    return dict(zip(world.ids, run.correct.tolist(), strict=True))


def _domains(world: World, run: Run) -> dict[str, DomainScore]:
    names = world.surface.domains
    found = {}
    for index, name in enumerate(names):
        own = run.correct[world.domain_of == index]
        found[name] = DomainScore.model_construct(accuracy=float(own.mean()), n=int(own.size))
    return found


def _board(
    number: int,
    submitted: Sequence[tuple[str, int]],
    runs: dict[tuple[str, int], Run],
    quota: int,
    decimals: int,
) -> Leaderboard:
    entries = [
        Submission.model_construct(
            candidate=one[0],
            run=one[1],
            checkpoint=STEP,
            adapter_sha256=NOWHERE,
            dev=runs[one].dev,
            score=runs[one].board(decimals),
            error=None,
        )
        for one in submitted
    ]
    return Leaderboard.model_construct(
        schema_version=1,
        kind="simulated",
        round=number,
        decimals=decimals,
        quota=quota,
        quota_left=quota - len(entries),
        submissions=entries,
    )


def _campaign() -> Campaign:
    pins = Pins(substrate=NOWHERE, constitution=NOWHERE, base=NOWHERE, dev_items=NOWHERE)
    return Campaign(
        name="simulated",
        created="",
        pins=pins,
        substrate_path="",
        constitution_path="",
        base_path="",
        config={},
        versions={},
    )
