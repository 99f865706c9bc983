"""Why a move stands, was dropped or is a dead end: every trial of it, and what was believed.

    python -m aevo.explain MOVE [runs/<campaign>]

MOVE is `axis/move`, or the move alone where that is enough. Reads records only, also of an
unfinished campaign.
"""

import argparse
from pathlib import Path

from aevo import cli
from aevo.errors import RecordError
from aevo.files.paths import Layout, latest_campaign
from aevo.view.explanation import ended, resolve, story


def main(arguments: list[str]) -> None:
    """The command line.

    Raises:
        ConfigError: the move was not tried; the message lists those that were.
        RecordError: the folder is no campaign, or none of its rounds has ended.
    """
    parser = argparse.ArgumentParser(
        prog="python -m aevo.explain", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("move", help="axis/move, or the move alone")
    parser.add_argument(
        "campaign",
        nargs="?",
        type=Path,
        help="a campaign folder; default: the one below runs/ that changed last",
    )
    given = parser.parse_args(arguments)
    layout = Layout(given.campaign or latest_campaign(Path("runs")))
    if not layout.campaign.is_file():
        raise RecordError(
            f"{layout.root} is not a campaign folder (it has no campaign.yaml)",
            "name one, as in: python -m aevo.explain MOVE runs/<campaign>",
        )
    rounds = ended(layout)
    print("\n".join(story(resolve(given.move, rounds), rounds)))


if __name__ == "__main__":
    cli.run(main)
