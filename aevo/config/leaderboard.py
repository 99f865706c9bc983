"""conf/leaderboard: the settings of each kind of board."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from aevo.files.documents import Part


class HoldoutSettings(Part):
    """conf/leaderboard/holdout: a hidden set, scored by a trusted job."""

    # Keys that a later command may change; all others are pinned when the campaign starts.
    free: ClassVar[frozenset[str]] = frozenset()

    kind: Literal["holdout"]
    quota: PositiveInt
    decimals: int = Field(ge=1, le=6)
    shift: bool


class ExternalSettings(Part):
    """What the boards have in common whose scores come from outside."""

    free: ClassVar[frozenset[str]] = frozenset({"deadline_s", "poll_s", "poll_max_s"})

    quota: PositiveInt
    decimals: int = Field(ge=1, le=6)
    lowest: float
    highest: float
    deadline_s: NonNegativeFloat
    poll_s: PositiveFloat
    poll_max_s: PositiveFloat
    max_rank: PositiveInt | None
    modules: list[str] | None
    max_mb: PositiveInt

    @property
    def shift(self) -> bool:
        """Which hidden items are drawn; nothing is scored on them."""
        return True


class KaggleSettings(ExternalSettings):
    """conf/leaderboard/kaggle: the public leaderboard of a Kaggle competition."""

    free: ClassVar[frozenset[str]] = ExternalSettings.free | {
        "daily_quota",
        "quota_wait_s",
        "settle_s",
        "timeout_s",
        "upload_timeout_s",
        "retries",
        "backoff_s",
    }

    kind: Literal["kaggle"]
    competition: str | None = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    daily_quota: PositiveInt
    quota_wait_s: NonNegativeFloat
    settle_s: NonNegativeFloat
    timeout_s: PositiveFloat
    upload_timeout_s: PositiveFloat
    retries: NonNegativeInt
    backoff_s: NonNegativeFloat


class FileSettings(ExternalSettings):
    """conf/leaderboard/file: a scorer of one's own, met in a folder."""

    free: ClassVar[frozenset[str]] = ExternalSettings.free | {
        "command",
        "command_timeout_s",
        "attempts",
    }

    kind: Literal["file"]
    command: list[str] | None = Field(min_length=1)
    command_timeout_s: PositiveFloat
    attempts: PositiveInt


BoardSettings = Annotated[
    HoldoutSettings | KaggleSettings | FileSettings, Field(discriminator="kind")
]
