"""LoRA supervised fine-tuning by NVIDIA Megatron-Bridge: one run of the recipe's `train` section.

    srun … --container-image=… python -m train.bridge --recipe recipe.yaml \\
        --data DIR/train.jsonl --base BASE --seed 7 --out OUT

For Nemotron 3 Nano 30B, Super 120B and Ultra 550B, in NVIDIA's container, one process a GPU; the
base must have been imported (`python -m train.nemo_bridge.imported`). Writes what `python -m
train.sft` writes, the state in Megatron-Bridge's own format. Killed at any instant and run again
with the same arguments it goes on from its last checkpoint. Exit status: 0 done, 2 bad arguments,
3 diverged.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

from train.command import Command, Errors

if TYPE_CHECKING:
    from train.run import Run

COMMAND = Command("train.bridge", distributed=True)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = _parser().parse_args(argv)
    if not _installed():
        return COMMAND.fail("Megatron-Bridge is not here: run it in NVIDIA's container "
                            "(nemo:26.06), set by cluster.container")
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")  # as in NVIDIA's examples
    return COMMAND.follow(args, lambda run: _train(run, args), _own_errors)


def _parser() -> argparse.ArgumentParser:
    parser = COMMAND.parser()
    parser.add_argument("--family", choices=("auto", "nano", "super", "ultra"), default="auto",
                        help="which recipe; auto: by the base's shape")
    parser.add_argument("--imported", default="auto",
                        help="the base in megatron's format; auto: BASE/megatron")
    for name, what in (("tensor", "ranks that share each matrix"), ("pipeline", "stages of layers"),
                       ("expert", "ranks that share the experts")):
        parser.add_argument(f"--{name}", type=int, default=0, help=f"{what}; 0: NVIDIA's own")
    parser.add_argument("--sequence", type=int, default=4096, help="most tokens a row")
    parser.add_argument("--micro-batch", type=int, default=1, help="rows a forward pass")
    return parser


def _installed() -> bool:
    try:
        return importlib.util.find_spec("megatron.bridge") is not None
    except ModuleNotFoundError:  # not even megatron
        return False


def _train(run: Run, args: argparse.Namespace) -> dict[str, Any]:
    from train.nemo_bridge.driver import execute
    from train.nemo_bridge.imported import location

    return execute(
        run, (args.tensor, args.pipeline, args.expert), args.sequence, args.micro_batch,
        args.family, location(args.base, args.imported),
    )


def _own_errors() -> Errors:
    from train.nemo_bridge.family import BridgeError

    return (BridgeError,)


if __name__ == "__main__":
    sys.exit(main())
