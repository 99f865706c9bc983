"""Starting jobs on this machine, through submitit's LocalExecutor.

Locally a job waits for its dependencies and its slot itself, and its lease says that it lives.
"""

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import submitit

from aevo.config.cluster import LocalCluster
from aevo.errors import ConfigError
from aevo.jobs.environment import package_first, variables
from aevo.jobs.execute import run_job
from aevo.jobs.folder import JobFolder
from aevo.records.job import JobSpec


def start(job: JobFolder, spec: JobSpec, attempt: int, cluster: LocalCluster) -> str:
    """Starts an attempt as a process of its own and returns its controller's pid."""
    folder = job.attempt(attempt)
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
    inherited = os.environ.get("PYTHONPATH", "")
    first = package_first(spec.code, inherited) if spec.code else {}
    with _own_output(folder), variables(first):
        started = executor.submit(run_job, str(job.root), attempt, slots)
    job.log(attempt).symlink_to(Path(started.paths.stdout).name)
    return str(started.job_id)


def _own_folder() -> Path:
    """A folder in the temporary directory that is this user's alone: another could hold its slots.

    Raises:
        ConfigError: its name is taken by something else.
    """
    folder = Path(tempfile.gettempdir(), f"aevo-slots-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigError(
            f"{folder} is not a folder of yours, so others may hold its slots",
            "remove it, or give cluster.slot_folder=PATH",
        )
    folder.chmod(0o700)
    return folder


def slot_files(cluster: LocalCluster) -> list[Path]:
    """The machine's slots, shared by every campaign of this user on it."""
    count = cluster.slots or os.cpu_count() or 1
    folder = Path(cluster.slot_folder or _own_folder())
    return [folder / f"slot-{number}.lock" for number in range(count)]


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
