"""The files of one job, and what is known of its state."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from aevo.files.documents import finished, read, read_lines
from aevo.records.job import JobEnd, JobSpec, LedgerLine, Running

Phase = Literal[
    "none",
    "starting",
    "waiting",
    "queued",
    "running",
    "ending",
    "unknown",
    "finished",
    "failed",
    "lost",
]
ALIVE: frozenset[Phase] = frozenset(
    {"starting", "waiting", "queued", "running", "ending", "unknown"}
)
# Exit codes of an attempt that did not fail by itself.
INTERRUPTED, CANCELLED = 130, 143
HUNG = 122  # of one whose command stood still; it may go on from its state a few times


@dataclass(frozen=True)
class JobFolder:
    """The files of one job, below `<round>/jobs/<name>`."""

    root: Path

    @classmethod
    def of(cls, spec: JobSpec) -> Self:
        """The folder that a job names."""
        return cls(Path(spec.folder))

    @property
    def spec(self) -> Path:
        return self.root / "spec.json"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.jsonl"

    @property
    def alive(self) -> Path:
        return self.root / "alive.lock"

    @property
    def submitting(self) -> Path:
        return self.root / "submit.lock"

    @property
    def stacks(self) -> Path:
        """Is there while the nodes of a step are asked for the stacks of their processes."""
        return self.root / "stacks"

    @property
    def running(self) -> Path:
        return self.root / "running.json"

    @property
    def latest(self) -> Path:
        return self.root / "latest"

    def attempt(self, number: int) -> Path:
        """The folder of one attempt: the script, the log, end.json."""
        return self.root / f"attempt_{number}"

    def end(self, number: int) -> Path:
        return self.attempt(number) / "end.json"

    def log(self, number: int) -> Path:
        """Standard output and error of one attempt."""
        return self.attempt(number) / "log.txt"

    def lines(self) -> list[LedgerLine]:
        """The ledger, oldest line first."""
        return read_lines(LedgerLine, self.ledger)

    def ended(self, number: int) -> JobEnd | None:
        """How attempt `number` ended, if it is on record."""
        path = self.end(number)
        return read(JobEnd, path) if finished(JobEnd, path) else None

    def current(self) -> Running | None:
        """What the last attempt that started said it was doing."""
        return read(Running, self.running) if self.running.exists() else None

    def open_attempt(self, number: int) -> Path:
        """Makes the folder of an attempt and points `latest` at it."""
        folder = self.attempt(number)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = self.root / f".latest-{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.name)
        temporary.replace(self.latest)
        return folder


@dataclass(frozen=True)
class JobState:
    """What is known of a job now. `message` says why it failed or was lost; `job_id`, `state` and
    `reason` are the scheduler's."""

    name: str
    phase: Phase
    attempt: int
    log: Path | None
    message: str = ""
    since: float | None = None
    job_id: str | None = None
    state: str = ""
    reason: str = ""
    cancelled: bool = False

    @property
    def alive(self) -> bool:
        """True while an attempt is on its way: wait, do not submit again."""
        return self.phase in ALIVE


def last_attempt(lines: list[LedgerLine]) -> int:
    """Number of the newest attempt in a ledger; 0 if there is none."""
    return max((line.attempt for line in lines), default=0)


def tail(log: Path | None, lines: int = 20) -> str:
    """The last lines of a log, or an empty string."""
    if log is None or not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 64 * 1024))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])
