"""A round that measured nothing ends its command, with the cause in the last line."""

from aevo.evaluate.contract import Doomed
from aevo.files.paths import Layout
from aevo.plan.candidates import nothing_measured


def check_measured(layout: Layout, number: int) -> None:
    """Refuses to go on from a round of which no candidate counts.

    Raises:
        Doomed: with the first cause.
    """
    cause = nothing_measured(layout, number)
    if cause is not None:
        raise Doomed(cause, f"python -m aevo.failures {layout.root} names them all")
