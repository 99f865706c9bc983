"""Takes an operator's edit of a policy into the record: the chain of a campaign's digests.

    python -m aevo.policy amend runs/<campaign> ROUND --reason "why"

Edit policy/round-ROUND.yaml before its round is planned, then run this.
"""

import argparse
from pathlib import Path

from aevo import cli
from aevo.files.paths import Layout
from aevo.policy import chain, document


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m aevo.policy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=["amend"])
    parser.add_argument("campaign", type=Path)
    parser.add_argument("round", type=int)
    parser.add_argument("--reason", required=True)
    given = parser.parse_args(arguments)
    layout = Layout(given.campaign.resolve())
    document.read(layout, given.round)  # a policy that does not validate is none
    made = chain.amend(layout, given.round, given.reason)
    print(f"{made.file} amended by {made.by}: {made.was} -> {made.now}")


if __name__ == "__main__":
    cli.run(main)
