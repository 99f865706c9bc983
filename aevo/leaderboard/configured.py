"""The board that a campaign is configured with; and what can be known of it beforehand."""

import shlex
from datetime import UTC, datetime
from pathlib import Path
from time import time

from aevo.config.leaderboard import FileSettings, HoldoutSettings, KaggleSettings
from aevo.config.schema import Config
from aevo.errors import ConfigError
from aevo.leaderboard.board import Board
from aevo.leaderboard.external import ExternalBoard
from aevo.leaderboard.file_site import FileSite
from aevo.leaderboard.holdout import HoldoutBoard
from aevo.leaderboard.kaggle.site import KaggleSite
from aevo.plan.setup import OpenCampaign
from aevo.substrate.frozen import source_of


def open_board(campaign: OpenCampaign) -> Board:
    """The board of the campaign, as the round or command was configured (deadlines, patience)."""
    settings = campaign.config.leaderboard
    if isinstance(settings, KaggleSettings):
        return ExternalBoard(campaign, settings, KaggleSite(settings), settings.quota_wait_s)
    if isinstance(settings, FileSettings):
        site = FileSite(settings, campaign.layout.board / "outbox")
        return ExternalBoard(campaign, settings, site)
    return HoldoutBoard(campaign, settings)


def check(config: Config) -> None:
    """Finds out what would fail at the board, before anything is submitted to the cluster.

    Raises:
        ConfigError: the substrate cannot make an archive; the scorer's command is no command.
        BoardError: no credentials that Kaggle takes, rules not accepted, no such competition, no
            network.
    """
    settings = config.leaderboard
    if isinstance(settings, HoldoutSettings):
        return
    substrate = source_of(config)
    if "export" not in substrate.file.commands:
        raise ConfigError(
            f"leaderboard={settings.kind}: {substrate.root}/substrate.yaml has no command `export`",
            "add one that writes {adapter} as the archive {out}",
        )
    if isinstance(settings, FileSettings):
        FileSite(settings, Path()).check()
        return
    site = KaggleSite(settings)
    try:
        found = site.check()
    finally:
        site.close()
    if found["deadline"] is not None and found["deadline"] < time():
        ended = datetime.fromtimestamp(found["deadline"], UTC).strftime("%Y-%m-%d")
        print(
            f"note: {settings.competition} ended on {ended}; late submissions may still get a "
            "score, and do not rank",
            flush=True,
        )


def described(config: Config) -> str:
    """For a dry run: what the collector of a round would submit, and where to."""
    settings = config.leaderboard
    text = (
        f"leaderboard {settings.kind}: at most {min(settings.quota, config.worker.n)} of "
        f"{config.worker.n} candidates, the anchor first, "
    )
    if isinstance(settings, KaggleSettings):
        return text + (
            f"to kaggle.com/competitions/{settings.competition} ({settings.daily_quota} a UTC day)"
        )
    if isinstance(settings, FileSettings):
        scorer = shlex.join(settings.command) if settings.command else "whoever watches it"
        return text + f"to leaderboard/outbox of the campaign, scored by {scorer}"
    return text + "scored on the hidden items"
