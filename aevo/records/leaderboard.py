"""leaderboard.json: the external, authoritative scores of one round, and the quota left."""

from aevo.records.io import Part, Record


class Submission(Part):
    """One scored submission. `score` is what the board shows (rounded as the board rounds)."""

    candidate: str
    run: int
    checkpoint: str
    adapter_sha256: str
    dev: float
    score: float | None
    error: str | None = None


class Leaderboard(Record):
    """The snapshot of a round: all its submissions, the quota, and the board's best so far."""

    kind: str
    round: int
    decimals: int
    quota: int
    quota_left: int
    submissions: list[Submission]

    def score_of(self, candidate: str) -> float | None:
        """The candidate's board score (its best submission), or None if it has none."""
        scores = [s.score for s in self.submissions if s.candidate == candidate]
        known = [score for score in scores if score is not None]
        return max(known) if known else None
