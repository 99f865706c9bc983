"""Ending jobs: cancelling what lives, and keeping how an attempt ended that could not say so."""

import os
import signal
import time
from collections.abc import Iterable

from aevo.files import lease
from aevo.files.documents import read, write_json
from aevo.files.untrusted import there
from aevo.jobs import slurm
from aevo.jobs.folder import CANCELLED, JobFolder, JobState, last_attempt
from aevo.jobs.state import WRITTEN_INSIDE
from aevo.records.job import JobEnd, JobSpec, Running

GRACE_S = 3.0  # between asking a local job to end and killing it


def cancel(job: JobFolder) -> bool:
    """Ends a job if it lives; False if it does not.

    Raises:
        JobError: the scheduler does not answer or will not cancel it.
    """
    return bool(cancel_many([job]))


def cancel_many(jobs: Iterable[JobFolder]) -> list[str]:
    """Ends those of the jobs that live and returns their names; Slurm is asked once for all.

    Raises:
        JobError: the scheduler does not answer or will not cancel.
    """
    ended, queued = [], []
    for job in jobs:
        if not job.spec.exists():
            continue
        spec = read(JobSpec, job.spec)
        done = there(spec.product) and spec.kind not in WRITTEN_INSIDE
        if spec.queue is not None and not done:
            queued.append(job)
        elif spec.queue is None and _end_processes(job):
            ended.append(spec.name)
    for job in slurm.cancel(queued):
        ended.append(job.root.name)
        attempt = last_attempt(job.lines())
        if not any(line.event == "started" and line.attempt == attempt for line in job.lines()):
            settle(
                job, JobState(job.root.name, "failed", attempt, None, "cancelled", cancelled=True)
            )
    return ended


def cancel_owned(owner: JobFolder) -> list[str]:
    """Ends every live job that belongs to a worker; their names."""
    specs = sorted(owner.root.parent.glob("*/spec.json"))
    return cancel_many(
        JobFolder(path.parent) for path in specs if read(JobSpec, path).owner == str(owner.root)
    )


def settle(job: JobFolder, state: JobState) -> None:
    """Keeps what the scheduler said of an attempt that left no word itself, before the scheduler
    forgets it."""
    if state.phase != "failed" or job.ended(state.attempt) is not None:
        return
    write_json(
        job.end(state.attempt),
        JobEnd(
            name=state.name,
            attempt=state.attempt,
            exit_code=CANCELLED if state.cancelled else 1,
            seconds=0.0,
            host="",
            message=state.message,
            by="scheduler",
        ),
    )


def _end_processes(job: JobFolder) -> bool:
    running = job.current()
    if running is None or not lease.held(job.alive):
        return False
    _signal(running, signal.SIGTERM)
    end = time.monotonic() + GRACE_S
    while lease.held(job.alive) and time.monotonic() < end:
        time.sleep(0.05)
    if lease.held(job.alive):
        _signal(running, signal.SIGKILL)
    return True


def _signal(running: Running, number: signal.Signals) -> None:
    for group in (running.pid, running.child):  # the job first: it ends its command and says why
        if group is not None:
            try:
                os.killpg(group, number)
            except ProcessLookupError:
                continue
