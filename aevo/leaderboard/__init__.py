"""Leaderboards: the external, authoritative score (holdout now; kaggle and file are to come)."""

from aevo.layout import Layout
from aevo.leaderboard.board import Board, Entry
from aevo.leaderboard.holdout import HoldoutBoard
from aevo.records.campaign import Campaign

__all__ = ["Board", "Entry", "open_board"]


def open_board(campaign: Campaign, layout: Layout) -> Board:
    """The board that the campaign is configured with."""
    return HoldoutBoard(campaign, layout)
