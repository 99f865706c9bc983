"""The one submission wrapper: every job of aevo, on every cluster, is started here.

Submitting a job that is finished or alive does nothing; that is how a driver or worker that was
killed goes on. An intent is in the ledger before the scheduler is asked, and each attempt has a
folder of its own, so that no answer that was lost or stale is ever mistaken for another.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock
from submitit.helpers import clean_env

from aevo.config.cluster import ClusterSettings, LocalCluster, SlurmCluster, section_of
from aevo.errors import AevoError, JobError
from aevo.files import secrets
from aevo.files.documents import append_line, read, write_json
from aevo.files.paths import CHECKOUT
from aevo.jobs import local, slurm
from aevo.jobs.ending import settle
from aevo.jobs.environment import operators, variables
from aevo.jobs.folder import CANCELLED, HUNG, INTERRUPTED, JobFolder, JobState, tail
from aevo.jobs.queue import ask
from aevo.jobs.script import DEPTH, job_name
from aevo.jobs.state import current_id, observe
from aevo.records.job import JobSpec, Launch, LedgerLine, Queue, Resources, Step

# A job's environment says how deep it was submitted, one deeper in each job that a job submits: a
# job that submits itself is stopped here, whatever the scheduler's environment leaks. A
# campaign as a job, its worker, the worker's training: three.
MAX_DEPTH = 3
MAX_LOST = 20
MAX_HANGS = 3
# A parallel launcher's variables would make a job take itself for a rank of another program.
LAUNCHERS = ("PMI_", "PMIX_", "PMI2_", "OMPI_", "I_MPI_", "MPI_LOCAL", "TORCHELASTIC_")
DEVICES = (
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "ZE_AFFINITY_MASK",
)
# The leaderboard's credentials, which the collector alone needs.
BOARD_SECRETS = (
    "KAGGLE_USERNAME",
    "KAGGLE_KEY",
    "KAGGLE_API_TOKEN",
    "KAGGLE_API_V1_TOKEN",
    "KAGGLE_CONFIG_DIR",
)


def submit(spec: JobSpec, cluster: ClusterSettings) -> JobState:
    """Makes sure that the job is finished or on its way, and returns its state.

    Raises:
        ConfigError: the scheduler refused it.
        JobError: it has failed or been lost too often; jobs nest too deep, or are too many.
    """
    job = JobFolder.of(spec)
    job.root.mkdir(parents=True, exist_ok=True)
    with FileLock(job.submitting):
        _adopt(job)
        state = observe(job)
        if state.phase == "finished" or state.alive:
            return state
        settle(job, state)
        if state.reason:  # held for good: it must not start beside its successor
            slurm.cancel([job])
        if exhausted(job, state, spec):
            raise JobError(
                f"job {spec.name} failed for good, last: {state.message}",
                f"see {state.log}; remove {job.root} to try again",
            )
        spec = fitted(spec, cluster)
        write_json(job.spec, spec)
        _start(job, spec, state.attempt + 1, cluster)
        return observe(job)


def fitted(spec: JobSpec, cluster: ClusterSettings) -> JobSpec:
    """The job as this cluster runs it: its resources, how it is watched and launched."""
    code = spec.code or str(CHECKOUT)
    if isinstance(cluster, LocalCluster):
        return spec.model_copy(update={"code": code})
    asked = cluster.options(spec.kind, spec.resources)
    place = Path(spec.folder).parents[1]
    return spec.model_copy(
        update={
            "code": code,
            "steps": [_within(step, asked.memory_gb) for step in spec.steps],
            "resources": Resources(
                cpus=asked.cpus or 1,
                gpus=asked.gpus or 0,
                memory_gb=asked.memory_gb,
                time_min=asked.time_min or spec.resources.time_min,
                nodes=asked.nodes or 1,
                tasks_per_node=asked.tasks_per_node or 1,
                slots=spec.resources.slots,
                disk_gb=spec.resources.disk_gb,
            ),
            "resumes": MAX_LOST if section_of(spec.kind) == "control" else cluster.resumes,
            "queue": Queue(
                cache=str(place / ".queue.json"),
                poll_s=cluster.poll_s,
                settle_s=cluster.settle_s,
                watch_s=cluster.watch_s,
            ),
            "launch": Launch(
                container=cluster.container,
                srun=asked.srun,
                environment=operators(asked.environment),
            ),
        }
    )


def _within(step: Step, memory_gb: float | None) -> Step:
    """A step whose sandbox has the memory that the job really asks for."""
    if step.confine is None or memory_gb is None:
        return step
    confine = step.confine.model_copy(update={"memory_gb": memory_gb})
    return step.model_copy(update={"confine": confine})


def _start(job: JobFolder, spec: JobSpec, attempt: int, cluster: ClusterSettings) -> None:
    depth = int(os.environ.get(DEPTH, "0")) + 1
    if depth > MAX_DEPTH:
        raise JobError(f"job {spec.name} would be nested {depth} deep: a job submits itself")
    job.open_attempt(attempt)
    name = job_name(spec, attempt)

    def note(event: str, **fields: str) -> None:
        append_line(
            job.ledger,
            LedgerLine.model_validate(
                {
                    "event": event,
                    "name": spec.name,
                    "attempt": attempt,
                    "time": time.time(),
                    "job_name": name,
                    **fields,
                }
            ),
        )

    if isinstance(cluster, SlurmCluster):
        _below_cap(job, cluster)
    note("intent")
    try:
        with clean_environment(spec, depth, cluster):
            if isinstance(cluster, SlurmCluster):
                job_id = slurm.start(job, spec, attempt, cluster)
            else:
                job_id = local.start(job, spec, attempt, cluster)
    except AevoError as error:
        note("refused", text=str(error))
        raise
    note("submitted", job_id=job_id)


@contextlib.contextmanager
def clean_environment(spec: JobSpec, depth: int, cluster: ClusterSettings) -> Iterator[None]:
    """The environment that a job is submitted in: nothing of the job we may be running in
    ourselves, no devices, no secrets for jobs that run a training stack's code, and the
    leaderboard's credentials for the collector alone.

    submitit's `clean_env` takes SLURM_CONF away too, without which sbatch may not find its
    cluster; it is put back.
    """
    secret = section_of(spec.kind) != "control"
    board = spec.kind != "collector"
    names = [
        name
        for name in os.environ
        if name.startswith(LAUNCHERS)
        or name in DEVICES
        or name == DEPTH
        or (secret and secrets.variable(name))
        or (board and name in BOARD_SECRETS)
    ]
    conf = os.environ.get("SLURM_CONF")
    if isinstance(cluster, SlurmCluster) and cluster.slurm_conf:
        conf = cluster.slurm_conf
    ours = {DEPTH: str(depth)} | ({"SLURM_CONF": conf} if conf is not None else {})
    without = (*names, "NODE_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE")
    with clean_env(extra_names=without), variables(ours):
        yield


def _below_cap(job: JobFolder, cluster: SlurmCluster) -> None:
    count = sum(
        1
        for ledger in job.root.parent.glob("*/ledger.jsonl")
        for line in JobFolder(ledger.parent).lines()
        if line.event == "intent"
    )
    if count >= cluster.max_jobs_per_round:
        raise JobError(
            f"{job.root.parent} has {count} submissions, the most that "
            f"cluster.max_jobs_per_round={cluster.max_jobs_per_round} allows",
            "find out what submits so many, then raise it",
        )


def _adopt(job: JobFolder) -> None:
    """Notes the id of a submission whose answer was lost, found by its name."""
    lines = job.lines()
    if not lines or lines[-1].event != "intent" or read(JobSpec, job.spec).queue is None:
        return
    known = ask()
    job_id = current_id(lines, known)
    if job_id is not None and not known.error:
        append_line(
            job.ledger,
            lines[-1].model_copy(
                update={"event": "submitted", "job_id": job_id, "time": time.time()}
            ),
        )


def exhausted(job: JobFolder, state: JobState, spec: JobSpec) -> bool:
    """True if the job may not be tried again: it failed by itself `spec.attempts` times, or was
    lost over and over, or hung MAX_HANGS times: it goes on from its state. Being interrupted or
    cancelled by a person is no failure of the job."""
    ends = [job.ended(number) for number in range(1, state.attempt + 1)]
    failures = sum(
        end.exit_code not in (0, INTERRUPTED, CANCELLED, HUNG) and not end.requeued
        for end in ends
        if end is not None
    )
    if state.phase == "failed" and not state.cancelled and ends and ends[-1] is None:
        failures += 1
    hangs = sum(end.exit_code == HUNG for end in ends if end is not None)
    return failures >= spec.attempts or state.attempt >= MAX_LOST or hangs >= MAX_HANGS


def wait(spec: JobSpec, cluster: ClusterSettings, poll_s: float = 0.2) -> JobState:
    """Waits until the job is finished; resubmits it if it failed or was lost, within its attempts.

    A job that was cancelled before is submitted again; one that is cancelled while it is waited
    for stays cancelled.

    Raises:
        JobError: the job is out of attempts or was cancelled; the message ends with its log.
    """
    job = JobFolder.of(spec)
    state = observe(job)
    fresh = not state.alive
    while True:
        if state.phase == "finished":
            return state
        if not state.alive:
            if exhausted(job, state, spec) or (state.cancelled and not fresh):
                settle(job, state)
                last = tail(state.log, 3).replace("\n", " | ")
                raise JobError(f"job {spec.name}: {state.message}", f"log {state.log}: {last}")
            submit(spec, cluster)
            fresh = False
        time.sleep(poll_s)
        state = observe(job)
