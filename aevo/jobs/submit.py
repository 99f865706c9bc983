"""The one submission wrapper: every job of aevo, on every cluster, is started here.

Submitting a job that is finished or alive does nothing; that is how a driver or worker that was
killed goes on. An intent is in the ledger before the scheduler is asked, and each attempt has a
folder of its own, so that no answer that was lost or stale is ever mistaken for another.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import submitit
from filelock import FileLock
from submitit.helpers import clean_env

from aevo.config import ClusterSettings
from aevo.errors import JobError
from aevo.jobs import lease
from aevo.jobs.execute import CANCELLED, INTERRUPTED, run_job
from aevo.jobs.state import JobFolder, JobState, observe, tail
from aevo.records.io import append_line, read, write_json
from aevo.records.job import JobEnd, JobSpec, LedgerLine, Running

# Set in a job's environment, one deeper in each job that a job submits: a job that submits itself
# is stopped here, whatever the scheduler's own environment leaks (SLURM.md, trap 1).
DEPTH = "AEVO_JOB_DEPTH"
MAX_DEPTH = 3
MAX_LOST = 20


def submit(spec: JobSpec, cluster: ClusterSettings) -> JobState:
    """Makes sure that the job is finished or on its way, and returns its state.

    Raises:
        JobError: it has failed or been lost too often; or jobs nest too deep.
    """
    job = JobFolder(Path(spec.folder))
    job.root.mkdir(parents=True, exist_ok=True)
    with FileLock(job.submitting):
        state = observe(job)
        if state.phase == "finished" or state.alive:
            return state
        if exhausted(job, state, spec):
            raise JobError(
                f"job {spec.name} failed for good, last: {state.message}",
                f"see {state.log}; remove {job.root} to try again",
            )
        write_json(job.spec, spec)
        _start(job, spec, state.attempt + 1, cluster)
        return observe(job)


def _start(job: JobFolder, spec: JobSpec, attempt: int, cluster: ClusterSettings) -> None:
    depth = int(os.environ.get(DEPTH, "0")) + 1
    if depth > MAX_DEPTH:
        raise JobError(f"job {spec.name} would be nested {depth} deep: a job submits itself")
    folder = job.attempt(attempt)
    folder.mkdir(parents=True, exist_ok=True)
    _point_latest(job, folder)
    line = LedgerLine(event="intent", name=spec.name, attempt=attempt, time=time.time())
    append_line(job.ledger, line)
    executor = submitit.LocalExecutor(folder=folder)
    executor.update_parameters(
        # waiting for dependencies and for a slot is not part of the job's own limit, which
        # `run_job` keeps itself; submitit's is only a last resort
        timeout_min=spec.resources.time_min + cluster.max_wait_min,
        stderr_to_stdout=True,
        gpus_per_node=spec.resources.gpus,
        name=spec.name,
    )
    slots = [str(path) for path in slot_files(cluster)] if spec.resources.slots else []
    with clean_env(extra_names=("CUDA_VISIBLE_DEVICES", DEPTH)), _own_output(folder):
        os.environ[DEPTH] = str(depth)
        started = executor.submit(run_job, str(job.root), attempt, slots)
        del os.environ[DEPTH]
    job.log(attempt).symlink_to(Path(started.paths.stdout).name)
    append_line(job.ledger, LedgerLine(
        event="submitted", name=spec.name, attempt=attempt, time=time.time(),
        job_id=str(started.job_id),
    ))


def exhausted(job: JobFolder, state: JobState, spec: JobSpec) -> bool:
    """True if the job may not be tried again: it failed by itself `spec.attempts` times, or was
    lost over and over. Being interrupted or cancelled by a person is no failure of the job."""
    ends = [job.end(number) for number in range(1, state.attempt + 1)]
    codes = [read(JobEnd, end).exit_code for end in ends if end.exists()]
    failures = sum(code not in (0, INTERRUPTED, CANCELLED) for code in codes)
    return failures >= spec.attempts or state.attempt >= MAX_LOST


def slot_files(cluster: ClusterSettings) -> list[Path]:
    """The machine's slots, shared by every campaign of this user on it."""
    count = cluster.slots or os.cpu_count() or 1
    folder = Path(cluster.slot_folder or Path(tempfile.gettempdir(), f"aevo-slots-{os.getuid()}"))
    return [folder / f"slot-{number}.lock" for number in range(count)]


def wait(spec: JobSpec, cluster: ClusterSettings, poll_s: float = 0.2) -> JobState:
    """Waits until the job is finished; resubmits it if it failed or was lost, within its attempts.

    Raises:
        JobError: the job is out of attempts; the message ends with the end of its log.
    """
    while True:
        state = observe(JobFolder(Path(spec.folder)))
        if state.phase == "finished":
            return state
        if not state.alive:
            if exhausted(JobFolder(Path(spec.folder)), state, spec):
                last = tail(state.log, 3).replace("\n", " | ")
                raise JobError(f"job {spec.name}: {state.message}", f"log {state.log}: {last}")
            submit(spec, cluster)
        time.sleep(poll_s)


def cancel(job: JobFolder, grace_s: float = 3.0) -> bool:
    """Ends a live local job: its command's process group and its own; False if none was alive."""
    if not lease.held(job.alive) or not job.running.exists():
        return False
    running = read(Running, job.running)
    _signal(running, signal.SIGTERM)
    end = time.monotonic() + grace_s
    while lease.held(job.alive) and time.monotonic() < end:
        time.sleep(0.05)
    if lease.held(job.alive):
        _signal(running, signal.SIGKILL)
    return True


@contextlib.contextmanager
def _own_output(folder: Path) -> Iterator[None]:
    """Sends what submitit's controller says to a file of the attempt.

    The controller inherits our standard output and error; holding on to them it would keep a
    pipe of the user's open (`… | tee`) until the job ends.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    with (folder / "controller.txt").open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        for descriptor, target in zip(saved, (1, 2), strict=True):
            os.dup2(descriptor, target)
            os.close(descriptor)


def _signal(running: Running, number: signal.Signals) -> None:
    for group in (running.pid, running.child):  # the job first: it ends its command and says why
        if group is not None:
            try:
                os.killpg(group, number)
            except ProcessLookupError:
                continue


def _point_latest(job: JobFolder, folder: Path) -> None:
    temporary = job.root / ".latest"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    temporary.replace(job.latest)
