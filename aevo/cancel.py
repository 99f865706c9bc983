"""Ends live jobs of a campaign; records stay.

    python -m aevo.cancel [runs/<campaign>]
    python -m aevo.cancel [runs/<campaign>] --candidate c03 [--round K]

A whole campaign is only stopped: the same command goes on later. A candidate that is cancelled is
out of its round for good; the round goes on without it, and the evidence says so.
"""

from aevo import cli
from aevo.errors import RecordError
from aevo.files.paths import Layout, campaign_at
from aevo.plan.cancel import cancel_all, cancel_candidate


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = cli.parser("cancel", __doc__)
    parser.add_argument("--candidate", help="cancel only this one, for good")
    parser.add_argument("--round", type=int, help="of that candidate; default: the newest")
    given = parser.parse_args(arguments)
    layout = Layout(campaign_at(given.campaign).resolve())
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
    cli.run(main)
