"""leaderboard.json: the external, authoritative scores of one round, and the quota left; and the
ledger in which a board outside of aevo's reach is remembered, line by line."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from aevo.files.documents import Foreign, Part, Record


class Submission(Part):
    """One submission. `score` is what the board shows (rounded as the board rounds).

    Exactly one of `score`, `error` and `pending` says how it stands: `pending` means that it was
    submitted and has no score yet. `reference` is what the board calls it.
    """

    candidate: str
    run: int
    checkpoint: str
    adapter_sha256: str
    dev: float
    score: float | None
    error: str | None = None
    pending: bool = False
    reference: str | None = None


class LateScore(Part):
    """The outcome of an earlier round's submission, which that round's collector did not wait for;
    noted by the round in which it was found."""

    round: int
    candidate: str
    run: int
    checkpoint: str
    score: float | None
    error: str | None = None


class Standing(Part):
    """The public board as it was when the round's scores were in (`taken`, UTC): how many teams
    show which score, and where `ours`, the round's best, stands. No names.

    `better` teams show a higher score; `tied` show the same, ourselves included if we are on it.
    """

    taken: str
    teams: int
    best: float | None
    scores: dict[str, int]
    ours: float | None
    better: int | None
    tied: int | None


class Daily(Part):
    """A board's daily quota when the round was submitted: `used` counts all of the team's."""

    day: str
    quota: int
    used: int
    left: int


class Leaderboard(Record):
    """The snapshot of a round: all its submissions, the quota, and how the board stands.

    `quota` and `quota_left` are the round's; `daily` is the board's own, where it has one. `late`
    are scores of earlier rounds' submissions that came in since.
    """

    kind: str
    round: int
    decimals: int
    quota: int
    quota_left: int
    submissions: list[Submission]
    daily: Daily | None = None
    standing: Standing | None = None
    late: list[LateScore] = []

    def scores_of(self, candidate: str) -> list[float]:
        """The scores of all of the candidate's submissions that have one, in their order."""
        return [
            s.score for s in self.submissions if s.candidate == candidate and s.score is not None
        ]

    def score_of(self, candidate: str) -> float | None:
        """The mean of the candidate's scores, or None if it has none. The best of several would be
        the luckiest."""
        known = self.scores_of(candidate)
        return sum(known) / len(known) if known else None

    def with_late(self, later: Iterable["Leaderboard"]) -> "Leaderboard":
        """This round's board with the scores that `later` boards found for it."""
        found = {
            (item.candidate, item.run, item.checkpoint): item
            for board in later
            for item in board.late
            if item.round == self.round
        }
        if not found:
            return self
        submissions = [
            _settled(entry, found.get((entry.candidate, entry.run, entry.checkpoint)))
            for entry in self.submissions
        ]
        return self.model_copy(update={"submissions": submissions})


class Scored(Protocol):
    """A round as some reader sees it: a dataclass with the round's board, if it has one."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def leaderboard(self) -> Leaderboard | None: ...


Round = TypeVar("Round", bound=Scored)


def with_late_scores(rounds: Sequence[Round]) -> list[Round]:
    """The rounds, each with the scores that later ones of them found for its submissions. Rounds
    after the last are not asked, so that evidence verifies whatever came in since."""
    boards = [item.leaderboard for item in rounds if item.leaderboard is not None]
    return [
        item
        if item.leaderboard is None
        else replace(item, leaderboard=item.leaderboard.with_late(boards))
        for item in rounds
    ]


def _settled(entry: Submission, late: LateScore | None) -> Submission:
    if late is None or not entry.pending:
        return entry
    return entry.model_copy(update={"score": late.score, "error": late.error, "pending": False})


LedgerEvent = Literal["intent", "posted", "refused", "rejected", "scored", "failed"]


class SubmissionLine(Part):
    """One line of `leaderboard/ledger.jsonl`.

    `intent` stands before an upload, `posted` after it or when it was found on the board; `refused`
    says that the board took nothing and the same may be tried again, `rejected` that it never will
    be. `scored` and `failed` are outcomes, `by_round` the round whose collector saw them. `token`
    identifies campaign, round, candidate, run, checkpoint and adapter; the board carries it in
    `description`.
    """

    event: LedgerEvent
    token: str
    time: float
    round: int
    candidate: str
    run: int
    checkpoint: str
    adapter_sha256: str
    description: str
    by_round: int
    archive_sha256: str | None = None
    reference: str | None = None
    score: float | None = None
    text: str | None = None


class Request(Record):
    """`request.json` in an outbox folder: what is to be scored. Written last: who sees it finds
    `submission.zip` complete beside it."""

    token: str
    campaign: str
    round: int
    candidate: str
    run: int
    checkpoint: str
    adapter_sha256: str
    archive: str
    archive_sha256: str
    description: str
    requested: str


class Answer(Foreign):
    """`score.json`, the scorer's answer: of which archive, and a score or an error."""

    schema_version: Literal[1]
    archive_sha256: str
    score: float | None = None
    error: str | None = None
