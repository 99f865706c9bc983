"""A round that measured nothing ends its command, with the cause in the last line."""

from aevo.errors import JobError
from aevo.evaluate.contract import check_predictions
from aevo.evaluate.untrusted import IntegrityError
from aevo.files.documents import read
from aevo.files.paths import Layout
from aevo.records.evidence import Evidence
from aevo.records.scores import Scores


def check_baseline(layout: Layout) -> None:
    """Refuses to go on where the evaluation of the bare base breaks the contract: every other one
    would too, after its training.

    Raises:
        JobError: naming what is wrong with it. Silent while it is not there.
    """
    path = layout.baseline / "scores.json"
    if not path.exists():
        return
    try:
        check_predictions(read(Scores, path), layout.baseline)
    except IntegrityError as error:
        raise JobError(
            f"the baseline's evaluation breaks the contract: {error.what}",
            error.mend or "mend the command `baseline` of the substrate",
        ) from error


def check_measured(layout: Layout, number: int) -> None:
    """Refuses to go on from a round of which no candidate counts.

    Raises:
        JobError: with the first cause.
    """
    evidence = read(Evidence, layout.round(number).evidence)
    if any(item.status == "ok" and item.dev is not None for item in evidence.candidates):
        return
    causes = [f"{item.candidate}: {item.failure}" for item in evidence.candidates if item.failure]
    raise JobError(
        f"every candidate of round {number} failed; {causes[0] if causes else ''}",
        f"python -m aevo.failures {layout.root} names them all",
    )
