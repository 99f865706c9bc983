"""Ends live jobs of a campaign; records stay.

    python -m aevo.cancel [runs/<campaign>]
    python -m aevo.cancel [runs/<campaign>] --candidate c03 [--round K]

A whole campaign is only stopped: the same command goes on later. A candidate that is cancelled is
out of its round for good; the round goes on without it, and the evidence says so.
"""

import argparse
import getpass
import time
from pathlib import Path

from aevo.cli import run
from aevo.errors import RecordError
from aevo.graph import worker_name
from aevo.jobs.ending import cancel, cancel_many, cancel_owned
from aevo.jobs.folder import JobFolder
from aevo.layout import Layout, RoundLayout
from aevo.records.cancelled import Cancelled
from aevo.records.io import finished, read, write_json
from aevo.records.manifest import Manifest
from aevo.records.plan import Plan
from aevo.trajectory import latest_campaign

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
        raise RecordError(f"round {files.number} has no candidate {candidate}",
                          f"candidates: {', '.join(known)}")
    here = files.candidate(candidate)
    if finished(Manifest, here.manifest):
        raise RecordError(f"{candidate} of round {files.number} has finished",
                          f"see {here.manifest}")
    write_json(here.cancelled, Cancelled(candidate=candidate, time=time.time(),
                                         by=getpass.getuser()))
    worker = JobFolder(files.jobs / worker_name(candidate))
    ended = [worker.root.name] if cancel(worker) else []
    return ended + cancel_owned(worker)


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m aevo.cancel", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaign", type=Path, nargs="?")
    parser.add_argument("--candidate", help="cancel only this one, for good")
    parser.add_argument("--round", type=int, help="of that candidate; default: the newest")
    given = parser.parse_args(arguments)
    layout = Layout((given.campaign or latest_campaign(Path("runs"))).resolve())
    if not layout.campaign.exists():
        raise RecordError(f"{layout.root} is no campaign", "give the path of one")
    if given.candidate:
        rounds = layout.rounds()
        number = given.round or (rounds[-1].number if rounds else 1)
        if not layout.round(number).plan.exists():
            raise RecordError(f"{layout.root} has no planned round {number}")
        ended = cancel_candidate(layout.round(number), given.candidate)
    else:
        ended = cancel_all(layout)
    print(f"cancelled {len(ended)} jobs of {layout.root}: {', '.join(ended) or 'none was alive'}")


if __name__ == "__main__":
    run(main)
