"""The state of a job, told from its folder, and for a job on Slurm from what Slurm says of it.

Order: the product (of a training, once its processes have ended), then how the last attempt ended,
then the scheduler's queue, then accounting. Never guesses: `lost` means submitted, not alive and no
record left; `unknown` means that the scheduler does not answer, which says nothing of the job.
"""

import os
import time
from pathlib import Path

from aevo.files import lease
from aevo.files.documents import read
from aevo.files.untrusted import there
from aevo.jobs.folder import CANCELLED, JobFolder, JobState, last_attempt
from aevo.jobs.queue import ACTIVE, WAITING, QueuedJob, Snapshot, accounted, snapshot
from aevo.records.job import JobSpec, LedgerLine, Queue

# A submission that was not answered may still be on its way for this long.
ANSWER_S = 60.0
# Kinds of jobs whose product worker-written code writes: it says nothing of their end.
WRITTEN_INSIDE = frozenset({"train"})

_fates: dict[str, str] = {}  # what sacct said of a job that is over; it will not change
_gone_since: dict[tuple[str, int], float] = {}  # when this process first saw an attempt gone


def observe(job: JobFolder) -> JobState:
    """Reads a job's state."""
    if not job.spec.exists():
        return JobState(job.root.name, "none", 0, None)
    spec = read(JobSpec, job.spec)
    lines = job.lines()
    attempt = last_attempt(lines)
    log = job.log(attempt) if attempt else None
    if there(spec.product):
        lives = spec.kind in WRITTEN_INSIDE and bool(lines) and _lives_on(job, spec, lines)
        return JobState(
            spec.name, "ending" if lives else "finished", attempt, log, job_id=_job_id(lines)
        )
    if not lines:
        return JobState(spec.name, "none", 0, None)
    if spec.queue is not None:
        return _on_slurm(job, spec, spec.queue, lines)
    return _on_this_machine(job, spec, lines)


def _lives_on(job: JobFolder, spec: JobSpec, lines: list[LedgerLine]) -> bool:
    """True while a job that has its product still runs: worker-written code wrote it, and may hold
    its slot and go on writing. The job ends it (`aevo.jobs.execute.RESULT_GRACE_S`)."""
    if spec.queue is None:
        return lease.held(job.alive)
    if job.ended(last_attempt(lines)) is not None:
        return False
    known = snapshot(spec.queue)
    job_id = current_id(lines, known)
    row = known.job(job_id) if job_id else None
    return row is not None and row.state.startswith(ACTIVE)


def _on_this_machine(job: JobFolder, spec: JobSpec, lines: list[LedgerLine]) -> JobState:
    attempt = last_attempt(lines)
    log = job.log(attempt)
    if lease.held(job.alive):
        running = job.current()
        if running is None or running.attempt != attempt:
            return JobState(spec.name, "starting", attempt, log)
        return JobState(spec.name, running.phase, attempt, log, since=running.started)
    ended = _ended(job, spec, lines, log)
    if ended is not None:
        return ended
    if lines[-1].event != "intent" and starting(_job_id(lines), job.root):
        return JobState(spec.name, "starting", attempt, log)
    return JobState(spec.name, "lost", attempt, log, "its process is gone and left no record")


def _ended(job: JobFolder, spec: JobSpec, lines: list[LedgerLine], log: Path) -> JobState | None:
    attempt = last_attempt(lines)
    end = job.ended(attempt)
    if end is None or end.requeued:
        return None
    if there(spec.product):  # it ended between the two looks
        return JobState(spec.name, "finished", attempt, log)
    return JobState(
        spec.name,
        "failed",
        attempt,
        log,
        end.message or f"exit {end.exit_code}",
        cancelled=end.exit_code == CANCELLED,
        job_id=_job_id(lines),
    )


def _on_slurm(job: JobFolder, spec: JobSpec, queue: Queue, lines: list[LedgerLine]) -> JobState:
    attempt = last_attempt(lines)
    log = job.log(attempt)
    ended = _ended(job, spec, lines, log)
    if ended is not None:
        return ended
    if lines[-1].event == "refused":
        return JobState(spec.name, "lost", attempt, log, lines[-1].text)
    known = snapshot(queue)
    job_id = current_id(lines, known)
    if known.error:
        return JobState(spec.name, "unknown", attempt, log, job_id=job_id, reason=known.error)
    asked = [line.time for line in lines if line.event != "started"][-1]
    if job_id is None:
        if known.time < asked or time.time() - asked < ANSWER_S:
            return JobState(spec.name, "starting", attempt, log)
        return JobState(
            spec.name,
            "lost",
            attempt,
            log,
            "its submission was not answered, and no job of its name exists",
        )
    row = known.job(job_id)
    if row is None and known.time <= asked:  # asked before it was submitted
        return JobState(spec.name, "starting", attempt, log, job_id=job_id)
    if row is not None and row.state.startswith((*WAITING, *ACTIVE)):
        _gone_since.pop((str(job.root), attempt), None)
        return _in_queue(job, spec, row, attempt, log)
    return _gone(job, spec, queue, job_id, row, attempt)


def _in_queue(job: JobFolder, spec: JobSpec, row: QueuedJob, attempt: int, log: Path) -> JobState:
    if row.stuck:
        return JobState(
            spec.name,
            "lost",
            attempt,
            log,
            f"Slurm holds it ({row.reason})",
            job_id=row.id,
            state=row.state,
            reason=row.reason,
        )
    if row.state.startswith(WAITING):
        return JobState(
            spec.name, "queued", attempt, log, job_id=row.id, state=row.state, reason=row.reason
        )
    running = job.current()
    begun = running is not None and running.attempt == attempt
    return JobState(
        spec.name,
        running.phase if running and begun else "starting",
        attempt,
        log,
        job_id=row.id,
        state=row.state,
        since=running.started if running and begun else None,
    )


def _gone(
    job: JobFolder, spec: JobSpec, queue: Queue, job_id: str, row: QueuedJob | None, attempt: int
) -> JobState:
    """A submission that Slurm has done with, and that has left no record (yet)."""
    log = job.log(attempt)
    since = _gone_since.setdefault((str(job.root), attempt), time.time())
    state = row.state if row else ""
    never_ran = state.startswith("CANCELLED") and row is not None and not row.node
    if time.time() - since < queue.settle_s and not never_ran:
        return JobState(spec.name, "ending", attempt, log, job_id=job_id, state=state)
    if not state:
        state = _fates[job_id] = _fates.get(job_id) or accounted(job_id)
    word = state.split(" ")[0]
    message = {
        "": "Slurm does not know it any more and it left no record",
        "CANCELLED": "cancelled",
        "COMPLETED": f"Slurm says COMPLETED, but {spec.product} is missing",
        "TIMEOUT": f"TIMEOUT after {spec.resources.time_min} min",
    }.get(word, word)
    blame = word not in ("", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "REVOKED")
    return JobState(
        spec.name,
        "failed" if blame else "lost",
        attempt,
        log,
        message,
        job_id=job_id,
        state=state,
        cancelled=word == "CANCELLED",
    )


def current_id(lines: list[LedgerLine], known: Snapshot) -> str | None:
    """Slurm's id of the newest submission; one whose answer was lost is found by its name."""
    last = [line for line in lines if line.event in ("intent", "submitted", "requeued")][-1]
    if last.event != "intent":
        return last.job_id
    for line in lines:  # the job itself may have started before sbatch's answer was noted
        if line.attempt >= last.attempt and line.job_id:
            return line.job_id
    row = known.named(last.job_name) if last.job_name else None
    return row.id if row else None


def _job_id(lines: list[LedgerLine]) -> str | None:
    return next((line.job_id for line in reversed(lines) if line.job_id), None)


def starting(job_id: str | None, folder: Path) -> bool:
    """True if the local controller process `job_id` is still there and is this job's."""
    if job_id is None or not job_id.isdigit():
        return False
    try:
        command = Path("/proc", job_id, "cmdline").read_bytes()
    except OSError:
        return False
    return os.fsencode(folder) in command
