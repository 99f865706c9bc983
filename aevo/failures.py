"""Lists every attempt that failed, was lost, timed out or was cancelled: why, and where its log is.

    python -m aevo.failures [runs/<campaign>] [--round K] [--json]

One block per attempt, the newest last, of all rounds or of one. Sources in this order: the
attempt's own end.json, squeue, sacct (asked once, only for attempts that left no word; not needed).
Attempts that Slurm took away to run them again (preemption, `scontrol requeue`) are no failures.
Ends with exit code 0 whether there are failures or not. `--json` prints one object:

    {"campaign": NAME, "failures": [FAILURE, …], "refusals": [REFUSAL, …]}

with a FAILURE as in `FailedAttempt` and a REFUSAL, of what ended well and does not count, as in
`Refusal`. Writes nothing.
"""

from rich.console import Console

from aevo import cli
from aevo.errors import RecordError
from aevo.files.paths import Layout, campaign_at
from aevo.view.failures import Failures, failures, refusals, show


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = cli.parser("failures", __doc__)
    parser.add_argument("--round", type=int, help="default: all rounds")
    parser.add_argument("--json", action="store_true", help="one JSON object, see above")
    given = parser.parse_args(arguments)
    layout = Layout(campaign_at(given.campaign).resolve())
    if given.round is not None and not layout.round(given.round).root.is_dir():
        raise RecordError(f"{layout.root} has no round {given.round}")
    found, refused = failures(layout, given.round), refusals(layout, given.round)
    if given.json:
        print(
            Failures(campaign=layout.root.name, failures=found, refusals=refused).model_dump_json(
                indent=2
            )
        )
    else:
        show(found, Console(), refused)


if __name__ == "__main__":
    cli.run(main)
