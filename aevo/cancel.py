"""Ends every live job of a campaign on this machine; records stay, the same command goes on later.

    python -m aevo.cancel [runs/<campaign>]
"""

import argparse
from pathlib import Path

from aevo.cli import run
from aevo.errors import RecordError
from aevo.jobs.state import JobFolder
from aevo.jobs.submit import cancel
from aevo.layout import Layout
from aevo.trajectory import latest_campaign

# Workers and the collector first: while they live they would submit again what is cancelled.
ORDER = ("worker", "collector", "meta")


def job_folders(layout: Layout) -> list[JobFolder]:
    """The folders of all jobs that were ever submitted, the campaign's own and each round's."""
    places = [layout.jobs, *sorted(path / "jobs" for path in layout.root.glob("round-*"))]
    found = [sorted(place.glob("*/spec.json")) for place in places if place.is_dir()]
    return [JobFolder(spec.parent) for specs in found for spec in specs]


def cancel_all(layout: Layout) -> list[str]:
    """Cancels the campaign's live jobs and returns their names."""
    folders = sorted(job_folders(layout), key=lambda job: not job.root.name.endswith(ORDER))
    return [job.root.name for job in folders if cancel(job)]


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m aevo.cancel", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaign", type=Path, nargs="?")
    given = parser.parse_args(arguments)
    layout = Layout((given.campaign or latest_campaign(Path("runs"))).resolve())
    if not layout.campaign.exists():
        raise RecordError(f"{layout.root} is no campaign", "give the path of one")
    ended = cancel_all(layout)
    print(f"cancelled {len(ended)} jobs of {layout.root}: {', '.join(ended) or 'none was alive'}")


if __name__ == "__main__":
    run(main)
