"""What an answer to a training prompt is worth.

Right is what the frozen metric says (eval/metric.py). This file may shape the reward from it, and a
worker may rewrite it: nothing here decides. Dev and the leaderboard are scored by frozen code in
another process, so a reward that rises alone shows as `reward` without dev.
"""

from __future__ import annotations

from eval.metric import extract, verify


def right(answer: str, text: str) -> bool:
    """Whether a generated text gives the row's answer."""
    return verify(answer, extract(text))


def reward(answer: str, text: str, length: float, penalty: float) -> float:
    """1 for a right text and 0 for a wrong one, less what its length costs.

    Args:
        length: its tokens as a share of those that an answer may have.
        penalty: `train.rl.length_penalty`, what one of full length loses.
    """
    return float(right(answer, text)) - penalty * length
