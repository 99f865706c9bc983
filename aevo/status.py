"""Shows where a round stands: every candidate, its jobs, what they wait for, and named problems.

    python -m aevo.status [runs/<campaign>] [--round K] [--watch] [--json] [--problems]

Reads records first; of Slurm only the answer of squeue that all processes of the round share, and
where it may matter sinfo and sacct, with short deadlines. `--json` prints one object:

    {"campaign": NAME, "round": K, "rows": [ROW, …], "problems": [{"job", "problem", "mend"}, …]}

with a ROW as in `Row` (seconds, GPU-hours; null where it is not known). Writes nothing.
"""

import contextlib
import os
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live

from aevo import cli
from aevo.errors import RecordError
from aevo.files.paths import Layout, latest_campaign
from aevo.view.problems import Problems
from aevo.view.table import WIDTH, status, table


def chosen_round(campaign: Path | None, number: int | None) -> tuple[Layout, int]:
    """The round that a command line names: by default the newest planned one of the newest
    campaign, or the first submitted one where none is planned.

    Raises:
        RecordError: there is no such campaign or round.
    """
    layout = Layout((campaign or latest_campaign(Path("runs"))).resolve())
    present = sorted(
        int(path.name.removeprefix("round-"))
        for path in layout.root.glob("round-[0-9]*")
        if (path / "plan.yaml").exists() or (path / "jobs").is_dir()
    )
    if number is None:
        planned = [item.number for item in layout.rounds()]
        if not present:
            raise RecordError(
                f"{layout.root} has no planned round", "start one: python -m aevo.round"
            )
        return layout, planned[-1] if planned else present[0]
    if number not in present:
        raise RecordError(
            f"{layout.root} has no round {number}",
            f"rounds so far: {', '.join(map(str, present)) or 'none'}",
        )
    return layout, number


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = cli.parser("status", __doc__)
    parser.add_argument("--round", type=int)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--watch", action="store_true", help="refresh until interrupted")
    how.add_argument("--json", action="store_true", help="one JSON object, see above")
    parser.add_argument(
        "--problems",
        action="store_true",
        help="also ask whether sacct answers (nothing depends on it)",
    )
    given = parser.parse_args(arguments)
    layout, number = chosen_round(given.campaign, given.round)
    problems = Problems(probe=given.problems)
    console = Console()
    if given.json:
        print(status(layout, number, problems).model_dump_json(indent=2))
    elif given.watch:
        with (
            contextlib.suppress(KeyboardInterrupt),
            Live(table(layout, number, problems), console=console, auto_refresh=False) as live,
        ):
            while True:
                time.sleep(1.0)
                live.update(table(layout, number, problems), refresh=True)
    else:
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console = Console(width=WIDTH)
        console.print(table(layout, number, problems))


if __name__ == "__main__":
    cli.run(main)
