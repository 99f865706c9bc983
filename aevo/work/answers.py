"""What the broker answers: typed, so that every kind of agent gets the same."""

from aevo.files.documents import Part
from aevo.jobs import autopsy
from aevo.jobs.folder import JobState
from aevo.records.scores import Score
from aevo.sandbox import STOPPED

SAID = 12  # lines of a failed run's log that `wait` gives


class RunStarted(Part):
    """Answer of `train`. The run goes on the anchor's seed of number `seed`: two recipes are
    compared on the same one."""

    run: int
    seed: int
    trainings_left: float
    note: str | None = None


class RunStatus(Part):
    """Answer of `wait`: `ok`, `diverged`, `refused` or `failed`. `failure` is the cause; of a run
    that was not `ok`, `log` is what its log says of the end and `metrics` its learning curve."""

    run: int
    status: str
    final_loss: float | None = None
    checkpoints: list[str] = []
    failure: str | None = None
    log: list[str] = []
    metrics: list[str] = []


class Evaluation(Part):
    """Answer of `evaluate`: every checkpoint on dev, and the one the recipe's criterion selects."""

    run: int
    criterion: str
    selected: str | None
    scores: dict[str, Score]


def cause(state: JobState) -> str:
    """Why a job failed; of a command that was stopped, for which limit."""
    if state.log is None or f"exit code {STOPPED}" not in state.message:
        return state.message
    return autopsy.limit(autopsy.log_text(state.log)) or state.message


def said(state: JobState, lines: int = SAID) -> list[str]:
    """What a job's log says of its end."""
    return autopsy.ending(autopsy.log_text(state.log), lines) if state.log else []


def why(status: str, refused: dict[str, str]) -> str | None:
    """What an agent should know of a run beside its status."""
    said = ["training diverged"] if status != "ok" else []
    said += [f"checkpoint {name} was refused: {reason}" for name, reason in refused.items()]
    return "; ".join(said) or None


def figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
