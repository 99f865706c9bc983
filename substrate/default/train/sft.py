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
    parser = COMMAND.parser()
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32",
                        help="of base and activations; the adapter is fp32")
    parser.add_argument("--recompute", choices=("none", "full"), default="none",
                        help="full: the backward pass computes layers anew: less memory, more time")
    args = parser.parse_args(argv)
    return COMMAND.follow(args, lambda run: _train(run, args.precision, args.recompute))


def _train(run: Run, precision: str, recompute: str) -> dict[str, Any]:
    from train.peft_backend import Precision, execute

    return execute(run, Precision(precision, recompute))


if __name__ == "__main__":
    sys.exit(main())
