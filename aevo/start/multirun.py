"""Multirun: several campaigns from one command, one after another or each as a job.

    python -m aevo.campaign -m seed=1,2 rounds=2
    python -m aevo.campaign -m hydra/launcher=submitit_slurm hydra.launcher.partition=cpu \\
        hydra.launcher.timeout_min=1440 cluster=h200 seed=1,2 rounds=2     (needs aevo[slurm])

Hydra's submitit launcher takes a member that failed for one that succeeded: Slurm calls it
COMPLETED. Here a member that fails fails its job, the others go on, and when all have ended the
command names those that failed, with their logs, and fails. Members that are jobs submit their
rounds as jobs of their own; they should have more time than the rounds (a member that reaches its
limit is started again and goes on).
"""

import atexit
import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import submitit
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError
from submitit.helpers import clean_env

from aevo.cli import report
from aevo.errors import AevoError, ConfigError, JobError
from aevo.files.paths import CHECKOUT
from aevo.jobs.environment import variables
from aevo.jobs.script import DEPTH
from aevo.jobs.submit import MAX_DEPTH


@dataclass(frozen=True)
class Member:
    """A member that was a job of its own: what it was asked, and why it failed, if it did."""

    overrides: list[str]
    log: str
    error: BaseException | None


@contextlib.contextmanager
def member() -> Iterator[None]:
    """Around the task of a member that is a job of its own: if it fails, so does its process,
    after the launcher has kept the error for the command that waits for it.

    Does nothing in a process that is no such member.
    """
    try:
        yield
    except AevoError as error:
        if is_job():
            report(error)
            _exit_with(error.code)
        raise
    except Exception:
        if is_job():
            traceback.print_exc()
            _exit_with(1)
        raise


@contextlib.contextmanager
def launch(arguments: list[str], failures: list[AevoError]) -> Iterator[None]:
    """Around a command: where `arguments` ask for members as jobs, their environment is clean of
    the job that this command may itself run in, and those that failed are reported at the end and
    added to `failures`.

    Raises:
        ConfigError: the launcher's scheduler refused the members.
        JobError: members of members of members: something submits itself.
    """
    if not any(word.startswith("hydra/launcher=submitit") for word in arguments):
        yield
        return
    members: list[Member] = []
    with _environment(), _collected(members):
        try:
            yield
        except (FailedJobError, FailedSubmissionError) as error:
            raise ConfigError(
                f"the members could not be submitted: {' '.join(str(error).split())}",
                "change hydra.launcher.… (partition, account, qos, …)",
            ) from error
        except FileNotFoundError as error:
            if error.filename not in ("sbatch", "srun"):
                raise
            raise ConfigError(
                f"{error.filename} is not installed here",
                "choose hydra/launcher=submitit_local or none",
            ) from error
        finally:
            for failed in _failed(members):
                report(failed)
                failures.append(failed)


def _failed(members: list[Member]) -> list[AevoError]:
    """An error for each failed member, named by what it does not share with the others."""
    shared = set.intersection(*(set(item.overrides) for item in members)) if members else set()
    found: list[AevoError] = []
    for number, item in enumerate(members):
        if item.error is None:
            continue
        own = " ".join(word for word in item.overrides if word not in shared)
        error = JobError(
            f"member {number} ({own or 'the only one'}) failed: {item.error}", f"log {item.log}"
        )
        error.code = getattr(item.error, "code", 1)
        found.append(error)
    return found


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """What the members inherit: one level deeper, this code, nothing of a job around us."""
    depth = int(os.environ.get(DEPTH, "0")) + 1
    if depth >= MAX_DEPTH:
        raise JobError(f"the members would be nested {depth} deep: a job submits itself")
    changed = {
        DEPTH: str(depth),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH")))),
    }
    if "SLURM_CONF" in os.environ:  # which clean_env takes away
        changed["SLURM_CONF"] = os.environ["SLURM_CONF"]
    hidden = ("CUDA_VISIBLE_DEVICES", "NODE_RANK", "GROUP_RANK")
    with clean_env(extra_names=hidden), variables(changed):
        yield


@contextlib.contextmanager
def _collected(members: list[Member]) -> Iterator[None]:
    """Within it the launcher waits for all of its jobs, whatever becomes of one of them.

    The launcher asks its jobs for their results one after another and gives up at the first that
    raises; Hydra then gives up at the first result that says so. There is no hook between them.
    """
    job_class: Any = submitit.Job
    stock: Callable[[Any], list[JobReturn]] = job_class.results

    def results(job: Any) -> list[JobReturn]:
        overrides = list(job.submission().args[0])
        error: BaseException | None = None
        try:
            returned = stock(job)[0]
            if returned.status != JobStatus.COMPLETED:
                error = returned._return_value
        except (UncompletedJobError, FailedJobError):
            error = JobError(f"it left no result; its job is {job.state}")
        members.append(Member(overrides, str(job.paths.stderr), error))
        return [JobReturn(overrides=overrides, status=JobStatus.COMPLETED)]

    job_class.results = results
    try:
        yield
    finally:
        job_class.results = stock


def is_job() -> bool:
    """True in a member that is a job of its own."""
    return HydraConfig.initialized() and "submitit" in str(HydraConfig.get().launcher._target_)


def _exit_with(code: int) -> None:
    """Lets this process end with `code` although submitit will have kept a result."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(leave)
