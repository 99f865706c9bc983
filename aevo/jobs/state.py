"""The state of a job, told from its folder: product, lease, ledger, and how its attempts ended."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aevo.jobs import lease
from aevo.records.io import finished, read, read_lines
from aevo.records.job import JobEnd, JobSpec, LedgerLine, Running

Phase = Literal["none", "starting", "waiting", "queued", "running", "finished", "failed", "lost"]
ALIVE: frozenset[Phase] = frozenset({"starting", "waiting", "queued", "running"})


@dataclass(frozen=True)
class JobFolder:
    """The files of one job, below `<round>/jobs/<name>`."""

    root: Path

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
    def running(self) -> Path:
        return self.root / "running.json"

    @property
    def latest(self) -> Path:
        return self.root / "latest"

    def attempt(self, number: int) -> Path:
        """The folder of one attempt: submitit's files, the log, end.json."""
        return self.root / f"attempt_{number}"

    def end(self, number: int) -> Path:
        return self.attempt(number) / "end.json"

    def log(self, number: int) -> Path:
        """Standard output and error of one attempt."""
        return self.attempt(number) / "log.txt"


@dataclass(frozen=True)
class JobState:
    """What is known of a job now. `message` says why it failed or was lost."""

    name: str
    phase: Phase
    attempt: int
    log: Path | None
    message: str = ""
    since: float | None = None

    @property
    def alive(self) -> bool:
        """True while an attempt is on its way: wait, do not submit again."""
        return self.phase in ALIVE


def observe(folder: JobFolder) -> JobState:
    """Reads a job's state. Never guesses: `lost` means submitted, not alive and no record left."""
    if not folder.spec.exists():
        return JobState(folder.root.name, "none", 0, None)
    spec = read(JobSpec, folder.spec)
    lines = read_lines(LedgerLine, folder.ledger)
    attempt = max((line.attempt for line in lines), default=0)
    log = folder.log(attempt) if attempt else None
    if Path(spec.product).exists():
        return JobState(spec.name, "finished", attempt, log)
    if lease.held(folder.alive):
        running = read(Running, folder.running) if folder.running.exists() else None
        if running is None or running.attempt != attempt:
            return JobState(spec.name, "starting", attempt, log)
        return JobState(spec.name, running.phase, attempt, log, since=running.started)
    if finished(JobEnd, folder.end(attempt)):
        end = read(JobEnd, folder.end(attempt))
        if Path(spec.product).exists():  # it ended between the two looks
            return JobState(spec.name, "finished", attempt, log)
        return JobState(spec.name, "failed", attempt, log, end.message or f"exit {end.exit_code}")
    if lines and lines[-1].event == "submitted" and starting(lines[-1].job_id, folder.root):
        return JobState(spec.name, "starting", attempt, log)
    if not lines:
        return JobState(spec.name, "none", 0, None)
    return JobState(spec.name, "lost", attempt, log, "its process is gone and left no record")


def starting(job_id: str | None, folder: Path) -> bool:
    """True if the local controller process `job_id` is still there and is this job's."""
    if job_id is None or not job_id.isdigit():
        return False
    try:
        command = Path("/proc", job_id, "cmdline").read_bytes()
    except OSError:
        return False
    return os.fsencode(folder) in command


def tail(log: Path | None, lines: int = 20) -> str:
    """The last lines of a log, or an empty string."""
    if log is None or not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 64 * 1024))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])
