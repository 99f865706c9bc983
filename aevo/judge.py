"""Shows the runs that the judge has flagged, and clears one.

    python -m aevo.judge show [runs/<campaign>]
    python -m aevo.judge clear runs/<campaign> ROUND CANDIDATE [--run N] --reason "why"

A flagged run counts for nothing: no claim, promotion or dead end rests on it. Cleared before its
round's collector starts, it counts as any other; later the round stays as it is, since finished
rounds are frozen, and the clearance is on record.
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.text import Text

from aevo import cli
from aevo.errors import ConfigError
from aevo.evaluate.clearing import Flagged, all_flagged, clear, flagged
from aevo.files.paths import Layout, campaign_at


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m aevo.judge",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    show_parser = actions.add_parser("show")
    show_parser.add_argument("campaign", type=Path, nargs="?")
    clear_parser = actions.add_parser("clear")
    clear_parser.add_argument("campaign", type=Path)
    clear_parser.add_argument("round", type=int)
    clear_parser.add_argument("candidate")
    clear_parser.add_argument("--run", type=int, help="needed where several runs are flagged")
    clear_parser.add_argument("--reason", required=True)
    given = parser.parse_args(arguments)
    layout = Layout(campaign_at(given.campaign).resolve())
    if given.action == "show":
        show(all_flagged(layout), Console())
        return
    run = given.run or _only(layout, given.round, given.candidate)
    what = f"run {run} of {given.candidate} in round {given.round} is cleared"
    if clear(layout, given.round, given.candidate, run, given.reason):
        print(f"{what}, and counts")
    else:
        print(f"{what}; the round has ended without it and stays as it is")


def _only(layout: Layout, number: int, candidate: str) -> int:
    """The one flagged run of a candidate.

    Raises:
        ConfigError: it has several, or none.
    """
    runs = [item.run for item in flagged(layout.round(number), candidate)]
    if len(runs) != 1:
        named = ", ".join(map(str, runs)) or "none"
        raise ConfigError(f"flagged runs of {candidate} in round {number}: {named}", "give --run N")
    return runs[0]


def show(found: list[Flagged], console: Console) -> None:
    """Prints each flagged run with the lines it rests on."""
    if not found:
        console.print("no run is flagged")
    for item in found:
        word = "counts for nothing until it is cleared"
        if item.clearance is not None:
            word = f"cleared by {item.clearance.by}: {item.clearance.reason}"
            word += "" if item.counts else " (after the round had ended)"
        head = f"round {item.round}, {item.candidate}, run {item.run}: {word}"
        console.print(Text(head, style="bold"), soft_wrap=True)
        for flag in item.flags:
            console.print(Text(f"    {flag.rule}: {flag.text}"), soft_wrap=True)
            for line in flag.evidence:
                console.print(Text(f"        {line}"), soft_wrap=True)


if __name__ == "__main__":
    cli.run(main)
