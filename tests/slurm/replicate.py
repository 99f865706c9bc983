"""A job that submits copies of itself: `python -m tests.slurm.replicate FOLDER NAME`."""

import json
import os
import sys
import uuid
from pathlib import Path

from aevo.config.cluster import SlurmCluster
from aevo.errors import JobError
from aevo.jobs.submit import submit
from aevo.records.job import JobSpec, Step
from tests.conftest import REPO
from tests.slurm.conftest import Slurm

CAP = 6


def start(folder: Path, slurm: Slurm) -> str:
    """Submits the first; returns what all their names contain."""
    (folder / "cluster.json").write_text(json.dumps(slurm.settings | {"max_jobs_per_round": CAP}))
    submit(copy(folder, "first", slurm.conf), settings(folder))
    return f".{folder.name}."


def settings(folder: Path) -> SlurmCluster:
    """The cluster as the first job was given it."""
    return SlurmCluster.model_validate_json((folder / "cluster.json").read_text())


def copy(folder: Path, name: str, conf: str) -> JobSpec:
    """One of them. Its command runs this module."""
    return JobSpec(
        name=name,
        kind="train",
        campaign=folder.name,
        folder=str(folder / "round-01" / "jobs" / name),
        product=str(folder / f"{name}.done"),
        steps=[
            Step(
                argv=[sys.executable, "-m", "tests.slurm.replicate", str(folder), name],
                cwd=str(REPO),
                env={"PYTHONPATH": str(REPO), "SLURM_CONF": conf},
            )
        ],
        attempts=1,
    )


def main(folder: Path, name: str) -> None:
    """Submits three more of itself; says why it could not."""
    for _ in range(3):
        other = copy(folder, f"copy-{uuid.uuid4().hex[:6]}", os.environ["SLURM_CONF"])
        try:
            submit(other, settings(folder))
        except JobError as error:
            print(error, flush=True)
    (folder / f"{name}.done").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
