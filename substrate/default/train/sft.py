"""LoRA supervised fine-tuning: one run of the recipe's `train` section.

    python -m train.sft --recipe recipe.yaml --data DIR/train.jsonl --base base/tiny --seed 7 \\
        --out OUT

Writes OUT/metrics.jsonl (a line a step), OUT/checkpoints/step-NNNNNN (peft adapters), OUT/state
(to go on from) and last OUT/result.json. Killed at any instant and run again with the same
arguments it goes on and gives the same adapters bit for bit. Exit status: 0 done, 2 bad arguments,
3 diverged.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from train.command import Command

if TYPE_CHECKING:
    from train.run import Run

COMMAND = Command("train.sft", stages=True)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return COMMAND.follow(COMMAND.parser().parse_args(argv), _train)


def _train(run: Run) -> dict[str, Any]:
    from train.peft_backend import execute

    return execute(run)


if __name__ == "__main__":
    sys.exit(main())
