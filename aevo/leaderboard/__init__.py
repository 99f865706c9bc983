"""Leaderboards: the external, authoritative score (`holdout`, `kaggle`, `file`); `opening` opens
the one that a campaign is configured with."""

from aevo.leaderboard.board import Board, Entry

__all__ = ["Board", "Entry"]
