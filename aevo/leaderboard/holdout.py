"""The leaderboard of the embedded default: a hidden set scored by a trusted job.

The items lie in the campaign's vault and are drawn from a distribution that differs from dev's
(docs/tiny.md). Only rounded totals leave the vault: no per-item and no
per-domain result, as with a public board.
"""

from pathlib import Path

from aevo.config.leaderboard import HoldoutSettings
from aevo.errors import JobError
from aevo.files.documents import finished, read, write_json
from aevo.jobs.submit import wait
from aevo.leaderboard.board import Entry
from aevo.plan.graph import leaderboard_job
from aevo.plan.setup import OpenCampaign
from aevo.records.leaderboard import Leaderboard, Submission
from aevo.records.scores import Score, Scores


class HoldoutBoard:
    """Bound to one campaign."""

    def __init__(self, campaign: OpenCampaign, settings: HoldoutSettings) -> None:
        self.campaign, self.settings = campaign, settings

    @property
    def decimals(self) -> int:
        return self.settings.decimals

    @property
    def quota(self) -> int:
        return self.settings.quota

    def submit(self, number: int, entries: list[Entry]) -> Leaderboard:
        """Scores up to `quota` entries in one trusted job.

        Raises:
            JobError: the scoring job failed, or scored other items than the campaign's.
        """
        record = self.campaign.layout.round(number).leaderboard
        if finished(Leaderboard, record):
            return read(Leaderboard, record)
        taken = entries[: self.quota]
        scores: dict[str, Score] = {}
        if taken:
            self.campaign.verify()
            adapters = {_label(entry): entry.adapter for entry in taken}
            spec = leaderboard_job(self.campaign, number, adapters)
            wait(spec, self.campaign.config.cluster)
            found = read(Scores, Path(spec.product))
            if found.items_sha256 != self.campaign.record.pins.hidden_items:
                raise JobError(f"{spec.product} is of other items than the campaign's")
            scores = found.scores
        board = Leaderboard(
            kind="holdout",
            round=number,
            decimals=self.decimals,
            quota=self.quota,
            quota_left=self.quota - len(taken),
            submissions=[self._submission(entry, scores[_label(entry)]) for entry in taken],
        )
        write_json(record, board)
        return board

    def _submission(self, entry: Entry, score: Score) -> Submission:
        error = score.error
        if error is None and score.adapter_sha256 != entry.adapter_sha256:
            error = "the adapter is not the one that was scored on dev"
        shown = None if error or score.dev is None else round(score.dev, self.decimals)
        return Submission(
            candidate=entry.candidate,
            run=entry.run,
            checkpoint=entry.checkpoint,
            adapter_sha256=entry.adapter_sha256,
            dev=entry.dev,
            score=shown,
            error=error,
        )


def _label(entry: Entry) -> str:
    return f"{entry.candidate}-{entry.run}-{entry.checkpoint}"
