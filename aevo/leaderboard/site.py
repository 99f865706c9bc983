"""What a board outside of aevo must be able to do, and how it says that it could not."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from aevo.errors import AevoError
from aevo.records.leaderboard import Daily, Request, Standing
from aevo.text import one_line

MAX_TEXT = 240  # characters of a foreign text that are kept


class BoardError(AevoError):
    """The board cannot be used. `lasting` is False for what may pass by itself (a lost connection,
    an overloaded site)."""

    code = 10

    def __init__(self, what: str, mend: str = "", lasting: bool = True) -> None:
        self.lasting = lasting
        super().__init__(what, mend)


class Refused(Exception):
    """One submission was not taken, and certainly not. `exhausted`: for lack of quota, so that the
    same may be taken another day; else the file itself was rejected."""

    def __init__(self, text: str, exhausted: bool) -> None:
        self.text, self.exhausted = text, exhausted
        super().__init__(text)


@dataclass(frozen=True)
class Posted:
    """A submission as the board has it. `text` says why it failed."""

    reference: str
    state: Literal["pending", "scored", "failed"]
    score: float | None = None
    text: str = ""


class Site(Protocol):
    """One board. Every method may raise BoardError."""

    @property
    def kind(self) -> str:
        """What the records call it."""

    @property
    def settle_s(self) -> float:
        """How long an upload may be on its way before it is listed."""

    def find(self, tokens: Collection[str], since: float) -> dict[str, Posted]:
        """What the board has of these, by token; nothing older than `since` (Unix time)."""

    def daily(self, ours: int, time: float) -> Daily | None:
        """The quota of the UTC day of `time`, of which our records have used `ours`; None: the
        board has no daily quota."""

    def post(self, archive: Path, request: Request) -> str:
        """Submits, and returns the board's reference.

        Raises:
            Refused: it was not taken.
        """

    def standing(self, ours: float | None, time: float) -> Standing | None:
        """The public board, if there is one."""

    def close(self) -> None:
        """Lets go of what a conversation with the board holds."""


def utc(moment: float) -> str:
    """A Unix time as the records have it."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def foreign(text: str) -> str:
    """A foreign text for our records and messages: one printable line, not too long."""
    return one_line(text, MAX_TEXT)
