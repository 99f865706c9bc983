"""Where a score is checked: it must be of these adapters, on these items, after this training."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path

from aevo.errors import JobError
from aevo.evaluate.contract import check_predictions
from aevo.evaluate.criterion import Criterion
from aevo.evaluate.untrusted import IntegrityError
from aevo.files.documents import read
from aevo.files.paths import RunLayout
from aevo.records.inspection import Inspection
from aevo.records.manifest import CheckpointScore
from aevo.records.scores import Scores

# An evaluation may begin when the product of a training is there, moments before its end is on
# record: times of one filesystem that differ by less say nothing.
SLACK_S = 30.0


def read_scores(run: RunLayout, found: Inspection, items_sha256: str) -> Scores:
    """The evaluation record of an inspected run, checked against the campaign's item set.

    Raises:
        JobError: the scores are of other items or adapters, or older than the run.
    """
    scores = read(Scores, run.scores)
    try:
        check_scores(
            scores,
            found.adapters,
            items_sha256,
            written=run.scores.stat().st_mtime,
            trained=found.proof.ended if found.proof else None,
        )
        check_predictions(scores, run.scores.parent)
    except IntegrityError as error:
        raise JobError(f"{run.scores}: {error.what}", error.mend) from error
    return scores


def by_checkpoint(found: Inspection, scores: Scores, criterion: Criterion) -> list[CheckpointScore]:
    """Scored checkpoints of a run in step order, without those the evaluator refused."""
    ranked = []
    for item in found.result.checkpoints if found.result else []:
        name = Path(item.path).name
        score = scores.scores.get(name)
        if score is None or score.dev is None or score.adapter_sha256 is None:
            continue
        ranked.append(
            CheckpointScore(
                name=name,
                step=item.step,
                dev=score.dev,
                domains=score.domains,
                selection_score=criterion.score(score, item.step),
                adapter_sha256=score.adapter_sha256,
            )
        )
    return sorted(ranked, key=lambda item: item.step)


def check_scores(
    scores: Scores,
    adapters: Mapping[str, Collection[str]],
    items_sha256: str,
    base_sha256: str | None = None,
    written: float | None = None,
    trained: float | None = None,
) -> None:
    """Refuses scores that are not of these adapters on these items.

    Args:
        adapters: for each adapter that was to be scored the digests that name it
            (`AdapterReport.identities`).
        base_sha256: as the campaign's baseline scores say; None to leave it out.
        written: when the scores were written, by the filesystem's clock.
        trained: when the training ended, by the same clock (`RunProof.ended`).

    Raises:
        IntegrityError: stale, replayed, incomplete, of something else, or no scores at all.
    """
    if scores.items_sha256 != items_sha256:
        raise IntegrityError("the scores are of other items than the campaign's")
    if base_sha256 is not None and scores.base_sha256 != base_sha256:
        raise IntegrityError("the scores are of another base checkpoint than the baseline's")
    if written is not None and trained is not None and written < trained - SLACK_S:
        raise IntegrityError(
            "the scores are older than the end of the training they are said to be of"
        )
    if set(scores.scores) != set(adapters):
        odd = ", ".join(sorted(set(scores.scores) ^ set(adapters)))
        raise IntegrityError(f"scores and adapters do not match: {odd}")
    for name, score in scores.scores.items():
        if score.error is not None and score.dev is None:
            continue
        if score.adapter_sha256 not in adapters[name]:
            raise IntegrityError(f"the scores of {name} are of another adapter than the one there")
        if score.dev is None or not math.isfinite(score.dev) or not 0.0 <= score.dev <= 1.0:
            raise IntegrityError(f"the score of {name} is {score.dev}, not between 0 and 1")
