"""The recipe's learning rate as a scheduler of torch's, named in NeMo-RL's configuration.

Imported by NeMo-RL's policy workers, in an environment of their own: torch alone.
"""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from train import schedule


def factor(train: dict[str, Any], step: int) -> float:
    """The rate of 0-based `step` as a share of the peak.

    Args:
        train: learning_rate, schedule, steps.
    """
    peak = float(train["learning_rate"])
    return schedule.rate(train, min(step, train["steps"] - 1)) / peak if peak else 1.0


class Course(LambdaLR):
    """Steps `start`, `start` + 1, … of the recipe's schedule."""

    def __init__(self, optimizer: Optimizer, train: dict[str, Any], start: int = 0) -> None:
        super().__init__(optimizer, lambda step: factor(train, start + step))
