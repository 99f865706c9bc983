"""LoRA supervised fine-tuning with megatron-core: one run of the recipe's `train` section.

    python -m train.megatron --recipe recipe.yaml --data DIR/train.jsonl --base BASE --seed 7 \\
        --out OUT
    torchrun --nproc-per-node 2 -m train.megatron … --tensor 2

For Nemotron-H checkpoints in Hugging Face layout. Writes what `python -m train.sft` writes, the
state in megatron's `torch_dist` format. Started alone it is one process; started once per rank by
torchrun or srun it divides the model by --tensor, --pipeline and --expert and the rows of a batch
among the groups of processes that remain. Exit status: 0 done, 2 bad arguments, 3 diverged.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import warnings
from typing import TYPE_CHECKING, Any

from train.command import Command, Errors, mistakes

if TYPE_CHECKING:
    from train.run import Run

COMMAND = Command("train.megatron", distributed=True)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = _parser().parse_args(argv)
    if importlib.util.find_spec("megatron") is None:
        return COMMAND.fail(
            "megatron-core is not installed: pip install megatron-core==0.16.1")
    # megatron-core says of every optional package that it is not there.
    warnings.filterwarnings("ignore", category=UserWarning, module="megatron")
    return COMMAND.follow(args, lambda run: _train(run, args), _own_errors)


def _parser() -> argparse.ArgumentParser:
    parser = COMMAND.parser()
    parser.add_argument("--tensor", type=int, default=1, help="ranks that share each matrix")
    parser.add_argument("--pipeline", type=int, default=1, help="stages of layers")
    parser.add_argument("--expert", type=int, default=1, help="ranks that share the experts")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32",
                        help="of base and activations; the adapter is fp32")
    parser.add_argument("--micro-batch", type=int, default=0,
                        help="most rows a forward pass; 0: all of a rank's")
    parser.add_argument("--micro-tokens", type=int, default=0,
                        help="most tokens a forward pass, padding included; 0: no limit")
    parser.add_argument("--recompute", choices=("none", "selective", "full"), default="none",
                        help="what the backward pass computes anew: less memory, more time")
    return parser


def _train(run: Run, args: argparse.Namespace) -> dict[str, Any]:
    from train.mcore import layout as layouts
    from train.mcore.backend import execute

    layout = layouts.Layout(
        args.tensor, args.pipeline, args.expert, args.precision, args.micro_batch,
        args.micro_tokens, args.recompute,
    )
    try:
        result = execute(run, layout, layouts.start(layout))
    except (*mistakes(), *_own_errors()):  # raised on all ranks; after any other failure the ranks
        layouts.stop()  # that did not fail would be waited for
        raise
    layouts.stop()
    return result


def _own_errors() -> Errors:
    from train.mcore.layout import LayoutError

    return (LayoutError,)


if __name__ == "__main__":
    sys.exit(main())
