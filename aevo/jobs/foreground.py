"""Running a trusted command of the substrate here and now, not as a job."""

import os
import subprocess

from aevo.errors import JobError
from aevo.files.untrusted import scratch_folder
from aevo.jobs.environment import environment
from aevo.records.job import Step


def run_here(step: Step) -> None:
    """Runs `step` to its end, with pip's settings as ours.

    Raises:
        JobError: it failed; names the command and the last line of what it said.
    """
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    with scratch_folder("aevo-") as scratch:
        ours = environment(os.environ, step.env | pip, os.cpu_count() or 1, str(scratch))
        done = subprocess.run(step.argv, cwd=step.cwd, capture_output=True, text=True, env=ours)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise JobError(f"`{' '.join(step.argv[1:3])}` failed ({done.returncode}): {lines[-1]}")
