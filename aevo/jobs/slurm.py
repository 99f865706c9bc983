"""Submitting jobs to Slurm and cancelling them there."""

import time
from collections.abc import Sequence
from pathlib import Path

from submitit.core.utils import FailedJobError, FailedSubmissionError

from aevo.config.cluster import SlurmCluster
from aevo.errors import JobError
from aevo.files.documents import read
from aevo.files.untrusted import there
from aevo.jobs.folder import JobFolder
from aevo.jobs.queue import ACTIVE, WAITING, Snapshot, ask, call
from aevo.jobs.script import dependency, executor, job_name, refusal
from aevo.jobs.state import current_id
from aevo.records.job import JobSpec
from aevo.text import one_line

# What sbatch says when the controller is away, as apart from refusing the job.
AWAY = (
    "unable to contact",
    "timed out",
    "connection refused",
    "temporarily unable",
    "communication",
    "socket",
    "zero bytes",
    "not responding",
    "try again",
)
TRIES = 5
PAUSE_S = 5.0


def start(job: JobFolder, spec: JobSpec, attempt: int, cluster: SlurmCluster) -> str:
    """Submits an attempt and returns Slurm's id.

    An sbatch that failed may have reached the controller all the same; before it is repeated the
    job is looked for by its name.

    Raises:
        ConfigError: Slurm refused the job, with its words and the key to change.
        JobError: the controller did not answer, several times over.
    """
    after, needs = parents(spec.after), parents(spec.needs)
    made, command = executor(spec, attempt, cluster, dependency(after, needs))
    for trial in range(TRIES):
        try:
            return made.start(command)
        except (FailedJobError, FailedSubmissionError) as error:
            words = str(error)
            if not any(word in words.lower() for word in AWAY):
                raise refusal(spec, words) from error
        time.sleep(PAUSE_S * (trial + 1))
        known = ask()
        row = known.named(job_name(spec, attempt)) if not known.error else None
        if row is not None:
            return row.id
    raise JobError(
        f"the Slurm controller did not take {spec.name} in {TRIES} tries: {one_line(words)[-200:]}",
        "run the same command again when `scontrol ping` says UP",
    )


def parents(folders: list[str]) -> list[str]:
    """Slurm ids of the jobs to wait for; those that have left their product are waited for no
    more (Slurm forgets finished jobs, and takes an unknown id for a satisfied one)."""
    found = []
    for folder in folders:
        job = JobFolder(Path(folder))
        lines = job.lines()
        if not lines or _has_product(job):
            continue
        job_id = current_id(lines, Snapshot(time=0.0))
        if job_id is not None:
            found.append(job_id)
    return found


def cancel(jobs: Sequence[JobFolder]) -> list[JobFolder]:
    """Cancels those of the jobs that Slurm still has, with one question and one command.

    Raises:
        JobError: Slurm does not answer, or refuses.
    """
    if not jobs:
        return []
    known = ask()
    if known.error:
        raise JobError(f"cannot cancel {len(jobs)} job(s): {known.error}", "try again later")
    found: dict[str, JobFolder] = {}
    for job in jobs:
        job_id = current_id(job.lines(), known) if job.lines() else None
        row = known.job(job_id) if job_id else None
        ending = row is not None and row.state.startswith("COMPLETING")
        if row is not None and row.state.startswith((*WAITING, *ACTIVE)) and not ending:
            found[row.id] = job
    if found:
        code, _, said = call(["scancel", *found])
        if code != 0:
            raise JobError(f"scancel {' '.join(found)} failed: {said}")
    return list(found.values())


def requeue(job_id: str) -> bool:
    """Asks Slurm to run this job again from its start; False if it will not."""
    code, _, said = call(["scontrol", "requeue", job_id])
    if code != 0:
        print(f"scontrol requeue {job_id}: {said}", flush=True)
    return code == 0


def restarts(job_id: str) -> int | None:
    """How often Slurm has requeued the job; None if it does not say."""
    code, text, _ = call(["scontrol", "--oneliner", "show", "job", job_id])
    words = dict(word.split("=", 1) for word in text.split() if "=" in word) if code == 0 else {}
    return int(words["Restarts"]) if words.get("Restarts", "").isdigit() else None


def _has_product(job: JobFolder) -> bool:
    return there(read(JobSpec, job.spec).product)
