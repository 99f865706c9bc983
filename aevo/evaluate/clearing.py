"""A person's decision on a flagged run: it is honest, and why.

Evidence counts the clearances that there were when the round's collector began, and keeps that list
(`clearances.json`): a later one stays on record, and changes no round that has ended.
"""

import getpass
import os
import time
from dataclasses import dataclass

from aevo.errors import RecordError
from aevo.files.documents import finished, read, write_json
from aevo.files.paths import Layout, RoundLayout, RunLayout
from aevo.records.judgement import Clearance, Clearances, Cleared, Flag, Judgement


@dataclass(frozen=True)
class Flagged:
    """A run that the judge flagged, with what a person said of it, if anybody did."""

    round: int
    candidate: str
    run: int
    flags: list[Flag]
    clearance: Clearance | None
    counts: bool  # cleared in time for the round's evidence


def all_flagged(layout: Layout) -> list[Flagged]:
    """The flagged runs of a campaign, in order."""
    numbers = sorted(
        int(root.name.removeprefix("round-")) for root in layout.root.glob("round-[0-9]*")
    )
    return [item for number in numbers for item in flagged(layout.round(number))]


def flagged(files: RoundLayout, candidate: str = "c*") -> list[Flagged]:
    """The flagged runs of a round, or of one of its candidates, in order."""
    cleared, found = cleared_runs(files), []
    for path in sorted(files.root.glob(f"{candidate}/checked/*/judgement.json")):
        judgement, name = read(Judgement, path), path.parents[2].name
        if judgement.flags:
            found.append(
                Flagged(
                    files.number,
                    name,
                    judgement.run,
                    judgement.flags,
                    _clearance(files.candidate(name).run(judgement.run)),
                    (name, judgement.run) in cleared,
                )
            )
    return found


def clear(layout: Layout, number: int, candidate: str, run: int, reason: str) -> bool:
    """Clears a flagged run; True if its round's evidence will count it.

    Raises:
        RecordError: the run is not flagged, or was cleared before.
    """
    files = layout.round(number)
    place = files.candidate(candidate).run(run)
    if not place.judgement.exists() or not (flags := read(Judgement, place.judgement).flags):
        raise RecordError(
            f"run {run} of {candidate} in round {number} is not flagged",
            f"python -m aevo.judge show {layout.root} lists what is",
        )
    if _clearance(place) is not None:
        raise RecordError(f"run {run} of {candidate} in round {number} was cleared before")
    made = Clearance(
        run=run,
        flags=len(flags),
        by=_user(),
        reason=reason,
        time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )
    write_json(place.clearance, made)
    return (candidate, run) in cleared_runs(files)


def close(files: RoundLayout) -> None:
    """Settles which clearances the round's evidence counts; called before anything is computed."""
    if not finished(Clearances, files.clearances):
        write_json(files.clearances, _now(files))


def cleared_runs(files: RoundLayout) -> set[tuple[str, int]]:
    """Candidate and number of the runs whose clearance counts: of those that were settled, else of
    those there are."""
    settled = files.clearances.exists()
    found = read(Clearances, files.clearances) if settled else _now(files)
    return {(item.candidate, item.run) for item in found.cleared}


def _now(files: RoundLayout) -> Clearances:
    found = []
    for path in sorted(files.root.glob("c[0-9]*/checked/*/clearance.json")):
        said = read(Clearance, path)
        found.append(
            Cleared(candidate=path.parents[2].name, run=said.run, by=said.by, reason=said.reason)
        )
    return Clearances(round=files.number, cleared=found)


def _clearance(run: RunLayout) -> Clearance | None:
    return read(Clearance, run.clearance) if run.clearance.exists() else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for this number
        return str(os.getuid())
