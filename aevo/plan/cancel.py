"""Ending the live jobs of a campaign or of one candidate."""

import getpass
import time

from aevo.errors import RecordError
from aevo.files.documents import finished, read, write_json
from aevo.files.paths import Layout, RoundLayout
from aevo.jobs.ending import cancel, cancel_many, cancel_owned
from aevo.jobs.folder import JobFolder
from aevo.plan.graph import worker_name
from aevo.records.manifest import Manifest
from aevo.records.plan import Cancelled, Plan

# Workers and the collector first: while they live they would submit again what is cancelled.
ORDER = ("worker", "collector", "meta", "plan")


def job_folders(layout: Layout) -> list[JobFolder]:
    """The folders of all jobs that were ever submitted, the campaign's own and each round's."""
    places = [layout.jobs, *sorted(path / "jobs" for path in layout.root.glob("round-*"))]
    found = [sorted(place.glob("*/spec.json")) for place in places if place.is_dir()]
    return [JobFolder(spec.parent) for specs in found for spec in specs]


def cancel_all(layout: Layout) -> list[str]:
    """Cancels the campaign's live jobs and returns their names.

    Looks again until nothing lives: a worker may have been submitting when it was cancelled.
    """
    ended: list[str] = []
    while again := cancel_many(
        sorted(job_folders(layout), key=lambda job: not job.root.name.endswith(ORDER))
    ):
        ended += again
    return ended


def cancel_candidate(files: RoundLayout, candidate: str) -> list[str]:
    """Takes a candidate out of its round; returns the names of the jobs that were ended.

    Raises:
        RecordError: the round has no such candidate, or it has finished.
    """
    known = [item.id for item in read(Plan, files.plan).candidates]
    if candidate not in known:
        raise RecordError(
            f"round {files.number} has no candidate {candidate}", f"candidates: {', '.join(known)}"
        )
    here = files.candidate(candidate)
    if finished(Manifest, here.manifest):
        raise RecordError(
            f"{candidate} of round {files.number} has finished", f"see {here.manifest}"
        )
    write_json(
        here.cancelled, Cancelled(candidate=candidate, time=time.time(), by=getpass.getuser())
    )
    worker = JobFolder(files.jobs / worker_name(candidate))
    ended = [worker.root.name] if cancel(worker) else []
    return ended + cancel_owned(worker)
