"""kill -9 of a campaign."""

import json
import os
import signal

from aevo.files.paths import Layout
from aevo.jobs.folder import JobFolder
from aevo.jobs.state import observe
from aevo.plan.cancel import job_folders


def kill_jobs(layout: Layout) -> None:
    """kill -9 of every process of a campaign's jobs."""
    for job in job_folders(layout):
        if observe(job).alive and job.running.exists():
            kill_job(job)


def kill_job(job: JobFolder) -> None:
    """kill -9 of every process of a job that has begun."""
    running = json.loads(job.running.read_text())
    for group in (running["pid"], running["child"]):
        if group:
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                continue
