"""What a campaign would ship: of all adapters it trained, the one of highest expected score.

    python -m aevo.release [runs/<campaign>] [--top 5] [--out submission.zip]

Promotion and release answer different questions. A promotion is what every later trial stands on,
so it takes a test that is rarely wrong. A release ends the search: a change that is not proven but
more likely good than bad is worth shipping. So each candidate's effect is shrunk by the spread of
true effects (empirical Bayes: the best of many flatters), added to the level of the standing recipe
it was trained on, and the largest sum wins, whatever its p. The best leaderboard score of a
campaign, by contrast, is the luckiest of many.

Reads records only, also of an unfinished campaign. `--out` writes the substrate's submission
archive of the first one, judged like any other (docs/leaderboards.md).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aevo import cli
from aevo.errors import ConfigError, RecordError
from aevo.evidence.collector import entry_of
from aevo.files import words
from aevo.files.documents import read
from aevo.files.paths import Layout, campaign_at
from aevo.leaderboard.archive import ArchiveError, Rules, pack
from aevo.leaderboard.board import Entry
from aevo.policy.shipping import Option, read_options
from aevo.records.campaign import Campaign
from aevo.records.manifest import Manifest
from aevo.substrate.frozen import open_substrate

WIDTH = 200  # of the table where it goes into a file or pipe


def entry(layout: Layout, option: Option) -> Entry:
    """The option's adapter as it was scored on dev.

    Raises:
        RecordError: its manifest or adapter is missing.
    """
    files = layout.round(option.round)
    manifest = read(Manifest, files.candidate(option.candidate).manifest)
    found = entry_of(files, manifest)
    if found is None:
        raise RecordError(
            f"{option.candidate} of round {option.round} has no adapter any more",
            "restore its run's folder, or take another of --top",
        )
    return found


def export(layout: Layout, option: Option, out: Path) -> Path:
    """Writes the option's submission archive by the substrate's export command.

    Raises:
        ConfigError: the substrate has none, or `out` is there already.
        RecordError: the adapter is missing, or not what was scored.
    """
    campaign = read(Campaign, layout.campaign)
    substrate = open_substrate(Path(campaign.substrate_path))
    if "export" not in substrate.file.commands:
        raise ConfigError(
            f"{substrate.root}/substrate.yaml has no command `export`",
            "leave out --out, and take the adapter's folder",
        )
    if out.exists():
        raise ConfigError(f"{out} exists", "remove it, or give --out another name")
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    try:
        pack(
            substrate,
            entry(layout, option),
            Path(campaign.base_path),
            out.absolute(),
            Rules(lora=False),
        )
    except ArchiveError as error:
        raise RecordError(f"round {option.round} {option.candidate}: {error}") from error
    return out


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = cli.parser("release", __doc__)
    parser.add_argument("--top", type=int, default=5, help="how many to list (default: 5)")
    parser.add_argument("--out", type=Path, help="write the first one's submission archive there")
    given = parser.parse_args(arguments)
    layout = Layout(campaign_at(given.campaign))
    found = read_options(layout)
    if not found and any(item.evidence.exists() for item in layout.rounds()):
        raise RecordError(
            f"rounds of {layout.root} have ended, but no candidate has a score",
            f"python -m aevo.failures {layout.root} says why",
        )
    if not found:
        raise RecordError(
            f"no round of {layout.root} has ended yet",
            f"python -m aevo.status {layout.root} says how far it is",
        )
    _show(found[: max(given.top, 1)])
    print(f"adapter: {entry(layout, found[0]).adapter}")
    if given.out is not None:
        # Whole: the command of the substrate gets paths below it, and runs in another folder.
        whole = Layout(layout.root.resolve())
        print(f"archive: {export(whole, found[0], given.out)}")


def _show(found: Sequence[Option]) -> None:
    shown = Table("round", "candidate", "expected", "by its own change", "basis", "recipe")
    for item in found:
        own = "" if item.change.empty else f"{item.step:+.4f} ± {item.se:.4f}"
        cells = [
            str(item.round),
            item.candidate,
            f"{item.expected:+.4f}",
            own,
            item.basis,
            item.recipe,
        ]
        shown.add_row(*(Text(words.line(cell)) for cell in cells))  # no markup in a recipe's words
    Console(width=None if sys.stdout.isatty() else WIDTH).print(shown)


if __name__ == "__main__":
    cli.run(main)
