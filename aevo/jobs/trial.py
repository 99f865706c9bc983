"""Asking Slurm, before anything is submitted, whether it would take every kind of job.

Without it a wrong setting for trainings shows when the first worker submits one, with half of the
graph in the queue.
"""

import subprocess
from collections.abc import Iterable

from aevo.config.cluster import SlurmCluster, section_of
from aevo.errors import ConfigError
from aevo.jobs.script import executor, no_slurm, refusal
from aevo.jobs.slurm import AWAY
from aevo.jobs.submit import clean_environment
from aevo.records.job import JobSpec

DEADLINE_S = 60.0


def check(jobs: Iterable[JobSpec], cluster: SlurmCluster) -> None:
    """Lets `sbatch --test-only` judge one job of each section of conf/cluster.

    Nothing is submitted or written. A controller that does not answer refuses nothing; submitting
    deals with that. Not guaranteed: that Slurm will start what it accepts.

    Raises:
        ConfigError: Slurm refuses some of them; all refusals in one line. Or there is no Slurm.
    """
    first: dict[str, JobSpec] = {}
    for job in jobs:
        first.setdefault(section_of(job.kind), job)
    refused = [error for job in first.values() if (error := judge(job, cluster)) is not None]
    if len(refused) == 1:
        raise refused[0]
    if refused:
        whats = dict.fromkeys(error.what for error in refused)
        raise ConfigError("; ".join(whats), "; ".join(dict.fromkeys(e.mend for e in refused)))


def judge(job: JobSpec, cluster: SlurmCluster) -> ConfigError | None:
    """Slurm's refusal of a job, None if it would take it or does not answer.

    Raises:
        ConfigError: there is no Slurm here.
    """
    made, command = executor(job, 1, cluster)
    try:
        with clean_environment(job, 1, cluster):
            done = subprocess.run(
                ["sbatch", "--test-only"],
                input=made.text(command),
                text=True,
                capture_output=True,
                timeout=DEADLINE_S,
            )
    except FileNotFoundError as error:
        raise no_slurm() from error
    except subprocess.TimeoutExpired:
        return None
    if done.returncode == 0 or any(word in done.stderr.lower() for word in AWAY):
        return None
    return refusal(job, done.stderr)
