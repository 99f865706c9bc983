"""What an evaluation must leave: scores that are the means of their predictions, item by item.

A stack with partial credit would otherwise be read in two ways: its dev chooses checkpoints, and
`correct` decides comparisons. Until a record knows credit, that is refused, never averaged.
"""

from pathlib import Path

from aevo.errors import JobError, RecordError
from aevo.evaluate.untrusted import IntegrityError
from aevo.files.documents import iterate_lines, read
from aevo.files.paths import Layout
from aevo.records.scores import Prediction, Score, Scores

SLACK = 1e-6


class Doomed(JobError):
    """Whatever still runs of the campaign can come to nothing: its jobs are better cancelled."""


def check_baseline(layout: Layout) -> None:
    """Refuses to go on where the evaluation of the bare base breaks the contract: every other one
    would too, after its training.

    Raises:
        Doomed: naming what is wrong with it. Silent while it is not there.
    """
    path = layout.baseline / "scores.json"
    if not path.exists():
        return
    try:
        check_predictions(read(Scores, path), layout.baseline)
    except IntegrityError as error:
        raise Doomed(
            f"the baseline's evaluation breaks the contract: {error.what}",
            error.mend or "mend the command `baseline` of the substrate",
        ) from error


def check_predictions(scores: Scores, folder: Path) -> None:
    """Checks each scored adapter's `NAME.predictions.jsonl` in `folder` against its score.

    Raises:
        IntegrityError: naming the adapter and how the two disagree.
    """
    for name, score in scores.scores.items():
        if score.dev is not None:
            _check(name, score, folder / f"{name}.predictions.jsonl")


def _check(name: str, score: Score, path: Path) -> None:
    seen: dict[str, bool] = {}
    try:
        for row in iterate_lines(Prediction, path):
            if row.id in seen:
                raise IntegrityError(f"{path.name} answers the item {row.id} twice")
            seen[row.id] = row.correct
    except RecordError as error:
        raise IntegrityError(error.what, "mend the command `evaluate` of the substrate") from error
    if not seen:
        raise IntegrityError(
            f"there are no predictions of {name} ({path.name})",
            "the command `evaluate` must write one line for each item",
        )
    mean = sum(seen.values()) / len(seen)
    if score.dev is None or abs(mean - score.dev) > SLACK:
        raise IntegrityError(
            f"dev of {name} is {score.dev:.6f}, but the mean of `correct` over its {len(seen)} "
            f"predictions is {mean:.6f}",
            "dev must be that mean: partial credit is not supported",
        )
