"""Shows where a campaign stands, from its records alone.

    python -m aevo.status [runs/<campaign>] [--round K] [--watch] [--json]
"""

import argparse
import json
import os
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from aevo.cli import run
from aevo.errors import RecordError
from aevo.jobs.folder import JobFolder, JobState
from aevo.jobs.state import observe
from aevo.layout import CandidateLayout, Layout, RoundLayout
from aevo.records.io import Part, finished, read
from aevo.records.leaderboard import Leaderboard
from aevo.records.manifest import Manifest
from aevo.records.plan import CandidatePlan, Plan
from aevo.trajectory import latest_campaign


class Row(Part):
    """One candidate (or the collector, or meta) now. `dev` and `lb` are scores so far."""

    name: str
    axis: str
    phase: str
    detail: str = ""
    dev: float | None = None
    lb: float | None = None


def rows(layout: Layout, number: int) -> list[Row]:
    """The rows of a planned round, candidates first."""
    files = layout.round(number)
    plan = read(Plan, files.plan)
    board = read(Leaderboard, files.leaderboard) if files.leaderboard.exists() else None
    found = [_candidate(files, item, board) for item in plan.candidates]
    for name in ("collector", "meta"):
        state = observe(JobFolder(files.jobs / name))
        found.append(Row(name=name, axis="", phase=_phase(state), detail=state.message))
    return found


def table(layout: Layout, number: int) -> Table:
    """The rows as a table for a terminal."""
    view = Table(title=f"{layout.root.name}, round {number}", title_justify="left", expand=False)
    for title in ("candidate", "axis", "phase", "last"):
        view.add_column(title, overflow="fold")
    for title in ("dev", "LB"):
        view.add_column(title, justify="right")
    for row in rows(layout, number):
        view.add_row(row.name, row.axis, row.phase, row.detail,
                     "" if row.dev is None else f"{row.dev:.3f}",
                     "" if row.lb is None else f"{row.lb:.2f}")
    return view


def _candidate(files: RoundLayout, item: CandidatePlan, board: Leaderboard | None) -> Row:
    here = files.candidate(item.id)
    lb = board.score_of(item.id) if board else None
    axis = item.axis.axis if item.axis else "anchor"
    if finished(Manifest, here.manifest):
        manifest = read(Manifest, here.manifest)
        dev = manifest.selected.dev if manifest.selected else None
        detail = manifest.change.summary() if manifest.selected else manifest.failure or ""
        phase = "done" if manifest.status == "ok" else "failed"
        return Row(name=item.id, axis=axis, phase=phase, detail=detail, dev=dev, lb=lb)
    worker = observe(JobFolder(files.jobs / f"{item.id}-worker"))
    phase, detail = _phase(worker), worker.message
    for folder in sorted(files.jobs.glob(f"{item.id}-*-[0-9]*")):
        state = observe(JobFolder(folder))
        kind, number = folder.name.split("-")[1:]
        if state.alive:
            phase, detail = f"{kind} {number}: {state.phase}", _progress(here, int(number))
    return Row(name=item.id, axis=axis, phase=phase, detail=detail, lb=lb)


def _progress(here: CandidateLayout, number: int) -> str:
    """Step and loss of the last line of the run's metrics."""
    path = here.run(number).metrics
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
    try:
        last = json.loads(lines[-1])
        return f"step {last['step']}, loss {last['loss']:.3f}"
    except (IndexError, ValueError, KeyError, TypeError):
        return ""  # a line of the substrate's that is not (yet) whole is only not shown


def _phase(state: JobState) -> str:
    return {"none": "not submitted", "finished": "done"}.get(state.phase, state.phase)


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m aevo.status", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaign", type=Path, nargs="?")
    parser.add_argument("--round", type=int)
    parser.add_argument("--watch", action="store_true", help="refresh until interrupted")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    layout = Layout((given.campaign or latest_campaign(Path("runs"))).resolve())
    number = given.round or _latest_round(layout)
    if not layout.round(number).plan.exists():
        raise RecordError(f"{layout.root} has no round {number}",
                          f"planned rounds: {[item.number for item in layout.rounds()]}")
    if given.json:
        print(json.dumps([row.model_dump() for row in rows(layout, number)], indent=2))
    elif given.watch:
        with Live(table(layout, number), console=Console(), refresh_per_second=2) as live:
            while True:
                time.sleep(1.0)
                live.update(table(layout, number))
    else:
        Console().print(table(layout, number))


def _latest_round(layout: Layout) -> int:
    planned = layout.rounds()
    if not planned:
        raise RecordError(f"{layout.root} has no planned round", "start one: python -m aevo.round")
    return planned[-1].number


if __name__ == "__main__":
    run(main)
