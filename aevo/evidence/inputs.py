"""What a round left on disk, read once and handed to pure functions.

A manifest that is missing or corrupt is a fact about its candidate, never an error of the reader.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from aevo.errors import RecordError
from aevo.evaluate.clearing import cleared_runs
from aevo.files import documents
from aevo.files.paths import Layout, RoundLayout
from aevo.policy import document as policies
from aevo.records.leaderboard import Leaderboard, with_late_scores
from aevo.records.manifest import Manifest, TrainingRun
from aevo.records.plan import CandidatePlan, Plan
from aevo.records.policy import Policy
from aevo.records.scores import DomainScore, Prediction
from aevo.statistics.selection import flattery

Status = Literal["ok", "failed", "missing"]


@dataclass(frozen=True)
class CandidateFacts:
    """One candidate as found. `problem` says why a manifest or its predictions cannot be used.

    `cleared` are the flagged runs that a person has cleared (`aevo.evaluate.clearing`).
    `correct` are the answers of the selected checkpoint, `replicates` those of other runs of the
    same recipe, each by its best checkpoint; `seeds` are the training seeds of these, in their
    order.
    """

    plan: CandidatePlan
    status: Status
    manifest: Manifest | None = None
    sha256: str | None = None
    problem: str | None = None
    correct: dict[str, bool] = field(default_factory=dict)
    domain_of: dict[str, str] = field(default_factory=dict)
    replicates: tuple[dict[str, bool], ...] = ()
    seeds: tuple[int, ...] = ()
    cleared: frozenset[int] = frozenset()

    def flags(self, run: TrainingRun) -> list[str]:
        """Why one of its runs counts for nothing: the judge flagged it, and nobody cleared it."""
        return [] if run.number in self.cleared else list(run.flags)

    @property
    def flagged(self) -> list[str]:
        """Why the run that it stands by counts for nothing; empty where it counts."""
        runs = _stood_by(self.manifest) if self.manifest else []
        return [line for run in runs for line in self.flags(run)]

    def at(self, seed: int | None) -> dict[str, bool]:
        """The answers of the run of that seed; those of the selected one if there is none."""
        runs = dict(zip(self.seeds, (self.correct, *self.replicates), strict=False))
        return runs.get(seed, self.correct) if seed is not None else self.correct

    @property
    def seed(self) -> int | None:
        """The training seed of the run that it stands by, as far as that is known."""
        return self.seeds[0] if self.seeds else None

    @property
    def usable(self) -> Manifest | None:
        """The manifest if its candidate was scored."""
        return self.manifest if self.status == "ok" else None


@dataclass(frozen=True)
class RoundFacts:
    """One round as found; `leaderboard` is None before anything was submitted."""

    number: int
    policy: Policy
    plan: Plan
    candidates: tuple[CandidateFacts, ...]
    leaderboard: Leaderboard | None

    @property
    def standing(self) -> str:
        """Names what its anchor trained: the standing changes, whatever chooses checkpoints."""
        return ",".join(change.id for change in self.policy.standing)

    def lb_gain(self, name: str) -> float | None:
        """A candidate's leaderboard gain over the anchor, if both have a score."""
        board, anchor = self.leaderboard, self.anchor
        if board is None or anchor is None:
            return None
        own, base = board.score_of(name), board.score_of(anchor.plan.id)
        return None if own is None or base is None else own - base

    @property
    def anchor(self) -> CandidateFacts | None:
        """The anchor, if the plan has one."""
        return next((item for item in self.candidates if item.plan.role == "anchor"), None)


def domain_weights(facts: RoundFacts) -> dict[str, float]:
    """The part of dev's items that each domain holds; empty where the anchor has no score."""
    scores = _domains(facts.anchor) if facts.anchor else {}
    total = sum(item.n for item in scores.values())
    return {name: item.n / total for name, item in sorted(scores.items())} if total else {}


def domain_parts(facts: RoundFacts) -> list[tuple[str, dict[str, float]]]:
    """What each domain added to the dev gain of every scored explorer that changed something, over
    the mean of the anchor's runs: candidate and accuracies that sum to the gain, less what the
    choice among more checkpoints flatters it by."""
    weights, anchor = domain_weights(facts), _anchor_domains(facts)
    return [
        (
            item.plan.id,
            {
                name: weights[name] * (own[name].accuracy - anchor[name] - flattered(facts, item))
                for name in weights
            },
        )
        for item in facts.candidates
        if item.plan.role == "explorer"
        and (own := _domains(item)).keys() >= weights.keys()
        and weights
        and item.manifest is not None
        and not item.manifest.change.empty
    ]


def flattered(facts: RoundFacts, item: CandidateFacts) -> float:
    """What choosing among more checkpoints than the anchor had flatters a candidate's dev by."""
    if item.manifest is None:
        return 0.0
    anchors = [_choice(run) for run in _anchor_runs(facts)]
    runs = [*_stood_by(item.manifest), *(_replicates(item.manifest) if item.replicates else ())]
    return sum(flattery(_choice(run), anchors) for run in runs) / max(len(runs), 1)


def _choice(run: TrainingRun) -> list[float]:
    """The dev scores of the checkpoints that one was chosen among."""
    return [item.dev for item in run.checkpoints]


def _anchor_domains(facts: RoundFacts) -> dict[str, float]:
    runs = [run.best.domains for run in _anchor_runs(facts) if run.best]
    return (
        {
            name: sum(run[name].accuracy for run in runs) / len(runs)
            for name in domain_weights(facts)
        }
        if runs
        else {}
    )


def _domains(item: CandidateFacts) -> dict[str, DomainScore]:
    manifest = item.usable
    return manifest.selected.domains if manifest and manifest.selected else {}


def read_rounds(layout: Layout, number: int) -> list[RoundFacts]:
    """Rounds 1 … `number` that have a plan; per-item predictions only for the last.

    Raises:
        RecordError: a policy, plan or leaderboard is missing or corrupt.
    """
    known = [item.number for item in layout.rounds() if item.number < number]
    earlier = [read_round(layout, item, predictions=False) for item in known]
    return with_late_scores([*earlier, read_round(layout, number)])


def read_round(layout: Layout, number: int, predictions: bool = True) -> RoundFacts:
    """Reads one round.

    Raises:
        RecordError: its policy, plan or leaderboard is missing or corrupt.
    """
    folder = layout.round(number)
    plan = documents.read(Plan, folder.plan)
    board = documents.read(Leaderboard, folder.leaderboard) if folder.leaderboard.exists() else None
    cleared = cleared_runs(folder)
    own = {
        item.id: frozenset(run for name, run in cleared if name == item.id)
        for item in plan.candidates
    }
    candidates = tuple(
        replace(_candidate(folder, item, predictions, own[item.id]), cleared=own[item.id])
        for item in plan.candidates
    )
    return RoundFacts(number, policies.read(layout, number), plan, candidates, board)


def _candidate(
    folder: RoundLayout, plan: CandidatePlan, predictions: bool, cleared: frozenset[int]
) -> CandidateFacts:
    path = folder.candidate(plan.id).manifest
    try:
        manifest = documents.read(Manifest, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except RecordError as error:
        status: Status = "failed" if path.exists() else "missing"
        if folder.candidate(plan.id).cancelled.exists():
            return CandidateFacts(plan, status, problem=f"{plan.id} was cancelled")
        return CandidateFacts(plan, status, problem=_without_root(error.what, folder))
    named = (manifest.round, manifest.candidate, manifest.role)
    if named != (folder.number, plan.id, plan.role):
        problem = f"{plan.id}/manifest.json is that of round {named[0]} {named[1]} ({named[2]})"
        return CandidateFacts(plan, "failed", sha256=digest, problem=problem)
    if manifest.status == "failed" or manifest.selected is None:
        problem = manifest.failure or "no checkpoint was scored"
        return CandidateFacts(plan, "failed", manifest, digest, problem)
    selected = manifest.selected
    if flags := CandidateFacts(plan, "ok", manifest, cleared=cleared).flagged:
        problem = f"run {selected.run} is flagged and counts for nothing until it is cleared: "
        return CandidateFacts(plan, "failed", manifest, digest, problem + "; ".join(flags))
    if not predictions:
        return CandidateFacts(plan, "ok", manifest, digest)
    others = _replicates(manifest)
    try:
        rows = _predictions(folder, plan.id, selected.run, selected.checkpoint)
        replicates = [
            _predictions(folder, plan.id, run.number, run.best.name) for run in others if run.best
        ]
    except RecordError as error:
        return CandidateFacts(plan, "ok", manifest, digest, _without_root(error.what, folder))
    return CandidateFacts(
        plan,
        "ok",
        manifest,
        digest,
        None,
        _correct(rows),
        {row.id: row.domain for row in rows},
        tuple(_correct(found) for found in replicates),
        tuple(run.seed for run in [*_stood_by(manifest), *others]),
    )


def _stood_by(manifest: Manifest) -> list[TrainingRun]:
    """The run that a candidate stands by."""
    selected = manifest.selected
    return [run for run in manifest.runs if selected and run.number == selected.run]


def _replicates(manifest: Manifest) -> list[TrainingRun]:
    """The other scored runs of the recipe that a candidate stands by, one a seed."""
    found: dict[int, TrainingRun] = {}
    for chosen in _stood_by(manifest):
        for run in manifest.runs:
            same = run.recipe_sha256 == chosen.recipe_sha256 and run.change == chosen.change
            if same and run.best and run.number != chosen.number and run.seed != chosen.seed:
                found.setdefault(run.seed, run)
    return list(found.values())


def _correct(rows: Sequence[Prediction]) -> dict[str, bool]:
    return {row.id: row.correct for row in rows}


def _predictions(
    folder: RoundLayout, candidate: str, run: int, checkpoint: str
) -> list[Prediction]:
    path = folder.candidate(candidate).run(run).predictions(checkpoint)
    rows = documents.read_lines(Prediction, path)
    if not rows:
        raise RecordError(f"{path} has no predictions")
    return rows


def _without_root(text: str, folder: RoundLayout) -> str:
    """Paths relative to the round, so that a campaign folder may be moved and still verify."""
    return text.replace(f"{folder.root}/", "")


def anchor_groups(rounds: Sequence[RoundFacts]) -> dict[str, list[float]]:
    """dev of every scored anchor run, grouped by what stands."""
    groups: dict[str, list[float]] = {}
    for facts in rounds:
        own = [run.best.dev for run in _anchor_runs(facts) if run.best]
        groups.setdefault(facts.standing, []).extend(own)
    return groups


def anchor_boards(rounds: Sequence[RoundFacts]) -> dict[str, list[float]]:
    """All leaderboard scores of the anchors, grouped by what stands."""
    groups: dict[str, list[float]] = {}
    for facts in rounds:
        groups.setdefault(facts.standing, []).extend(anchor_scores(facts))
    return groups


def anchor_scores(facts: RoundFacts) -> list[float]:
    """The leaderboard scores of the anchor's runs, as many as were submitted."""
    board, anchor = facts.leaderboard, facts.anchor
    return board.scores_of(anchor.plan.id) if board and anchor else []


def run_domains(facts: RoundFacts) -> list[dict[str, tuple[float, int]]]:
    """Accuracy and number of items by domain of the anchor's runs and of every scored explorer's
    selected one."""
    found = [run.best.domains for run in _anchor_runs(facts) if run.best]
    found += [_domains(item) for item in facts.candidates if item.plan.role == "explorer"]
    return [{name: (one.accuracy, one.n) for name, one in run.items()} for run in found if run]


def _anchor_runs(facts: RoundFacts) -> list[TrainingRun]:
    manifest = facts.anchor.usable if facts.anchor else None
    return [run for run in (manifest.runs if manifest else []) if run.best and run.change.empty]
