"""What the tests of trainer=bridge share: Megatron-Bridge's stand-in, and runs of the command."""

from __future__ import annotations

import sys
from pathlib import Path

STANDIN = Path(__file__).with_name("standin")
ONE = ("--family", "super", "--tensor", "1", "--pipeline", "1", "--expert", "1")


def stand_in() -> None:
    """Lets `import megatron.bridge` find the stand-in, beside the megatron-core installed."""
    if str(STANDIN) not in sys.path:
        sys.path.insert(0, str(STANDIN))


def words(recipe: Path, data: Path, base: Path, out: Path, *more: str) -> list[str]:
    """Arguments of train.bridge and train.megatron for a run with seed 7."""
    return [
        "--recipe",
        str(recipe),
        "--data",
        str(data),
        "--base",
        str(base),
        "--seed",
        "7",
        "--out",
        str(out),
        *more,
    ]
