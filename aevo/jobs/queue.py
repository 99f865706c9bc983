"""What Slurm says of our jobs: one answer of squeue, shared by all processes of a round.

Every worker of a round waits for jobs. They share the last answer through a file, so that the
scheduler is asked once per `poll_s`, not once per worker. squeue is asked for finished jobs too
(Slurm remembers them for MinJobAge), so sacct is needed only for what is long gone; clusters
without accounting work.
"""

import os
import subprocess
import time
from pathlib import Path

from filelock import FileLock, Timeout

from aevo.files import documents
from aevo.files.documents import Part, Record
from aevo.records.job import Queue

FORMAT = "%i|%T|%r|%N|%S|%V|%j"
DEADLINE_S = 30.0  # of one question to the scheduler
WAITING = (
    "PENDING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "SPECIAL_EXIT",
    "RESV_DEL_HOLD",
    "SUSPENDED",
)
# Reasons of Slurm's own for never starting a job: after a launch that failed (a node or the
# controller came back with an older memory of it) or too many requeues.
STUCK = ("launch failed requeued held", "jobholdmaxrequeue")
ACTIVE = ("CONFIGURING", "RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING", "STOPPED")


class QueuedJob(Part):
    """One job as squeue shows it; `start` is its start, or its expected start while it waits."""

    id: str
    state: str
    reason: str
    node: str
    start: str
    submitted: str
    name: str

    @property
    def stuck(self) -> bool:
        """True if Slurm holds it for good, not a person."""
        return self.reason.replace("_", " ").lower().startswith(STUCK)


class Snapshot(Record):
    """All jobs of this user at `time`; with `error`, what squeue said instead."""

    time: float
    error: str = ""
    jobs: list[QueuedJob] = []

    def job(self, job_id: str) -> QueuedJob | None:
        """The job of that id, if Slurm still knows it."""
        return next((item for item in self.jobs if item.id == job_id), None)

    def named(self, name: str) -> QueuedJob | None:
        """The newest job of that name."""
        found = [item for item in self.jobs if item.name == name]
        return max(found, key=lambda item: int(item.id.split("_")[0]), default=None)


def snapshot(queue: Queue) -> Snapshot:
    """The scheduler's answer, at most `poll_s` old, from the round's file or asked for now.

    Processes that find another one asking use the older answer; nobody waits longer than the
    scheduler itself takes.
    """
    cache = Path(queue.cache)
    known = _cached(cache)
    if known is not None and time.time() - known.time < queue.poll_s:
        return known
    cache.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(cache.with_suffix(".lock"), timeout=0 if known else DEADLINE_S):
            known = _cached(cache)
            if known is not None and time.time() - known.time < queue.poll_s:
                return known
            fresh = ask()
            documents.write_json(cache, fresh)
            return fresh
    except Timeout:
        return known or ask()


def ask() -> Snapshot:
    """Asks squeue for all jobs of this user, finished ones of the last minutes included."""
    asked = time.time()
    code, text, error = call(
        ["squeue", "--noheader", f"--user={os.getuid()}", "--states=all", f"--format={FORMAT}"]
    )
    if code != 0:
        return Snapshot(time=asked, error=error or f"squeue ended with exit code {code}")
    rows = [line.split("|", 6) for line in text.splitlines()]
    keys = ("id", "state", "reason", "node", "start", "submitted", "name")
    return Snapshot(
        time=asked,
        jobs=[
            QueuedJob(**dict(zip(keys, row, strict=True))) for row in rows if len(row) == len(keys)
        ],
    )


def accounted(job_id: str) -> str:
    """The state of a job by sacct (`TIMEOUT`, `CANCELLED by 0`, …); empty if it cannot tell."""
    code, text, _ = call(
        [
            "sacct",
            "--noheader",
            "--allocations",
            "--parsable2",
            f"--jobs={job_id}",
            "--format=State",
        ]
    )
    lines = text.split("\n") if code == 0 else []
    return lines[0].strip() if lines else ""


def call(argv: list[str], deadline_s: float = DEADLINE_S) -> tuple[int, str, str]:
    """Runs a scheduler command; exit code, output, first line of its error output.

    Never raises: a command that is missing, hangs or fails is an answer too (code 127, 124, …).
    """
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        return 127, "", f"{argv[0]} is not installed here"
    except subprocess.TimeoutExpired:
        return 124, "", f"{argv[0]} did not answer within {deadline_s:g} s"
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    return done.returncode, done.stdout.strip(), lines[0] if lines else ""


def _cached(path: Path) -> Snapshot | None:
    return documents.read(Snapshot, path) if documents.finished(Snapshot, path) else None
