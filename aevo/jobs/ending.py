"""Ending jobs: cancelling what lives, and keeping how an attempt ended that could not say so."""

import os
import signal
import time
from pathlib import Path

from aevo.jobs import lease, slurm
from aevo.jobs.folder import CANCELLED, JobFolder, JobState, last_attempt
from aevo.records.io import read, write_json
from aevo.records.job import JobEnd, JobSpec, Running


def cancel(job: JobFolder, grace_s: float = 3.0) -> bool:
    """Ends a job if it lives, on this machine within `grace_s` seconds; False if it does not.

    Raises:
        JobError: the scheduler does not answer or will not cancel it.
    """
    if not job.spec.exists():
        return False
    spec = read(JobSpec, job.spec)
    if spec.queue is None:
        return _end_processes(job, grace_s)
    if Path(spec.product).exists() or not slurm.cancel(job):
        return False
    lines, attempt = job.lines(), last_attempt(job.lines())
    if not any(line.event == "started" and line.attempt == attempt for line in lines):
        settle(job, JobState(spec.name, "failed", attempt, None, "cancelled", cancelled=True))
    return True


def cancel_owned(owner: JobFolder) -> list[str]:
    """Ends every live job that belongs to a worker; their names."""
    ended = []
    for path in sorted(owner.root.parent.glob("*/spec.json")):
        if read(JobSpec, path).owner == str(owner.root) and cancel(JobFolder(path.parent)):
            ended.append(path.parent.name)
    return ended


def settle(job: JobFolder, state: JobState) -> None:
    """Keeps what the scheduler said of an attempt that left no word itself, before the scheduler
    forgets it."""
    if state.phase != "failed" or job.ended(state.attempt) is not None:
        return
    write_json(job.end(state.attempt), JobEnd(
        name=state.name, attempt=state.attempt, exit_code=CANCELLED if state.cancelled else 1,
        seconds=0.0, host="", message=state.message, by="scheduler",
    ))


def _end_processes(job: JobFolder, grace_s: float) -> bool:
    running = job.current()
    if running is None or not lease.held(job.alive):
        return False
    _signal(running, signal.SIGTERM)
    end = time.monotonic() + grace_s
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
