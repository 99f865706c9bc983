"""manifest.json: the typed result of one candidate, written once, last, by the trusted worker job.

Scores are copied by trusted code from evaluation records; what the agent says stands apart, as
claims and findings.
"""

from collections.abc import Iterable
from typing import Literal

from pydantic import FiniteFloat

from aevo.files.documents import Part, Record
from aevo.files.words import Line, Several, Words
from aevo.records.change import Change
from aevo.records.policy import AxisBrief
from aevo.records.scores import DomainScore


class CheckpointScore(Part):
    """Dev score of one evaluated checkpoint. `selection_score` is by the selection criterion."""

    name: str
    step: int
    dev: float
    selection_score: float
    domains: dict[str, DomainScore]
    adapter_sha256: str


def best_of(checkpoints: Iterable[CheckpointScore]) -> CheckpointScore | None:
    """The best by its selection score; of equals the earlier one."""
    return max(checkpoints, key=lambda item: (item.selection_score, -item.step), default=None)


class TrainingRun(Part):
    """One training run of the candidate, as measured. `job` and `attempt` name what made it
    (the proof is in `checked/<number>/inspection.json`). With `flags`, which are the judge's, it
    counts for nothing until a person has cleared it (`checked/<number>/judgement.json`). `curve` is
    the loss at a few steps, as its own code wrote it: no figure to decide by. `tokens` were trained
    on, `read` only read or written; `budget` is for both where a method divides it.
    """

    number: int
    job: str | None = None
    attempt: int | None = None
    seed: int
    status: str
    steps: int
    final_loss: float | None
    tokens: int
    read: int = 0
    budget: int | None = None
    seconds: float
    recipe_sha256: str
    data_sha256: str | None
    change: Change
    checkpoints: list[CheckpointScore]
    failure: Words | None = None
    flags: Several = []
    curve: list[tuple[int, float]] = []

    @property
    def best(self) -> CheckpointScore | None:
        """The checkpoint that the recipe's criterion selects, None if none was scored."""
        return best_of(self.checkpoints)


class Selected(Part):
    """The checkpoint the candidate stands by."""

    run: int
    checkpoint: str
    criterion: str
    dev: float
    domains: dict[str, DomainScore]
    adapter_sha256: str


class Claims(Part):
    """What the agent says. Never used as a score."""

    summary: Words = ""
    claimed_dev: FiniteFloat | None = None
    findings: Several = []
    failure_modes: Several = []


class Cost(Part):
    """What the candidate spent; `training_s` is the sum over its runs, `shell_s`
    processor seconds of its shell, dollars are None where they
    are unknown (`aevo.records.trace.Usage`)."""

    turns: int
    tokens_in: int = 0
    tokens_out: int = 0
    dollars: float | None = 0.0
    training_s: float = 0.0
    shell_s: float = 0.0
    wall_s: float = 0.0


class Manifest(Record):
    """One candidate's result. `failed` means that no checkpoint was scored. `title` is the agent's
    name for its change, None in records from before there was one."""

    campaign: str
    round: int
    candidate: str
    role: Literal["anchor", "explorer"]
    axis: AxisBrief | None
    status: Literal["ok", "failed"]
    failure: Words | None = None
    move: Line | None = None
    title: Line | None = None
    change: Change
    recipe_sha256: str
    substrate_sha256: str
    runs: list[TrainingRun]
    selected: Selected | None
    claims: Claims
    cost: Cost
    agent: str
