"""What every leaderboard offers the collector."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aevo.records.leaderboard import Leaderboard


@dataclass(frozen=True)
class Entry:
    """One adapter to submit. `adapter` is its folder; `dev` what dev said of it."""

    candidate: str
    run: int
    checkpoint: str
    adapter: Path
    adapter_sha256: str
    dev: float


class Board(Protocol):
    """Access to the external score."""

    @property
    def decimals(self) -> int:
        """Decimals that the board shows."""

    @property
    def quota(self) -> int:
        """Submissions allowed in the round."""

    def submit(self, number: int, entries: list[Entry]) -> Leaderboard:
        """Scores the entries within the quota and writes the round's leaderboard.json.

        Called again, it returns the record and submits nothing.
        """
