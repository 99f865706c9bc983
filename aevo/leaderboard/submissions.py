"""What a campaign has submitted to a board outside of it: an append-only log, read back whole.

A line stands before each upload and after it, so that whoever comes after a crash knows which
uploads to look for on the board. Outcomes are written once.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from aevo.files import digest
from aevo.files.documents import append_line, read_lines
from aevo.leaderboard.board import Entry
from aevo.records.leaderboard import LateScore, LedgerEvent, SubmissionLine

OPEN = ("intent", "posted")  # submitted, or perhaps; no outcome yet
TAKEN = ("posted", "scored", "failed")  # the board has it


@dataclass(frozen=True)
class Order:
    """One submission that is wanted. `token` begins its description on the board."""

    token: str
    round: int
    entry: Entry
    description: str


def order(campaign: str, number: int, entry: Entry) -> Order:
    """The order for an entry; the same entry always gives the same token."""
    token = (
        "aevo-"
        + digest.of_value(
            [campaign, number, entry.candidate, entry.run, entry.checkpoint, entry.adapter_sha256]
        )[:20]
    )
    return Order(
        token,
        number,
        entry,
        (
            f"{token} {campaign} round {number} {entry.candidate} run {entry.run} "
            f"{entry.checkpoint} "
            f"adapter {entry.adapter_sha256[:16]}"
        ),
    )


def day(time: float) -> str:
    """The UTC day of a Unix time; daily quotas begin anew with it."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d")


class Ledger:
    """The log of one campaign."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[SubmissionLine]:
        """All lines, oldest first."""
        return read_lines(SubmissionLine, self.path)

    def latest(self) -> dict[str, SubmissionLine]:
        """The last line of each submission, by token."""
        return {line.token: line for line in self.lines()}

    def note(
        self,
        event: LedgerEvent,
        wanted: Order,
        time: float,
        archive_sha256: str | None = None,
        reference: str | None = None,
        text: str | None = None,
    ) -> SubmissionLine:
        """Appends a line about an order of the present round."""
        entry = wanted.entry
        line = SubmissionLine(
            event=event,
            token=wanted.token,
            time=time,
            round=wanted.round,
            candidate=entry.candidate,
            run=entry.run,
            checkpoint=entry.checkpoint,
            adapter_sha256=entry.adapter_sha256,
            description=wanted.description,
            by_round=wanted.round,
            archive_sha256=archive_sha256,
            reference=reference,
            text=text,
        )
        append_line(self.path, line)
        return line

    def follow(
        self,
        before: SubmissionLine,
        event: LedgerEvent,
        time: float,
        by_round: int,
        reference: str | None = None,
        score: float | None = None,
        text: str | None = None,
    ) -> None:
        """Appends what became of a submission."""
        append_line(
            self.path,
            before.model_copy(
                update={
                    "event": event,
                    "time": time,
                    "by_round": by_round,
                    "score": score,
                    "text": text,
                    "reference": reference or before.reference,
                }
            ),
        )

    def used(self, today: str) -> int:
        """Uploads of that day that the board took or may have taken."""
        made: dict[str, float] = {}
        for line in self.lines():
            if line.event in OPEN:
                made.setdefault(line.token, line.time)
            elif line.event in ("refused", "rejected"):
                made.pop(line.token, None)
        return sum(day(time) == today for time in made.values())

    def late(self, number: int) -> list[LateScore]:
        """Outcomes of earlier rounds that round `number` saw."""
        return [
            LateScore(
                round=line.round,
                candidate=line.candidate,
                run=line.run,
                checkpoint=line.checkpoint,
                score=line.score,
                error=line.text,
            )
            for line in self.lines()
            if line.event in ("scored", "failed") and line.by_round == number > line.round
        ]
