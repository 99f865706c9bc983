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
from pathlib import Path

from data.recipe import RecipeError, load_recipe

from train.sft import environment


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = _parser().parse_args(argv)
    if not _installed():
        return _fail("Megatron-Bridge is not here: run it in NVIDIA's container (nemo:26.06), set "
                     "by cluster.container")
    try:
        recipe = load_recipe(args.recipe)
    except RecipeError as error:
        return _fail(error)
    environment(args.threads)
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")  # as in NVIDIA's examples
    # A minute of imports: only for a good recipe, and after the environment is set.
    from eval.chat import ChatError

    from train.batching import DataError
    from train.checkpoint import StateError
    from train.loop import Run
    from train.model import ModelError
    from train.nemo_bridge.driver import execute
    from train.nemo_bridge.family import BridgeError
    from train.nemo_bridge.imported import location
    from train.targets import TargetError

    run = Run(recipe, args.data, args.base, args.out, args.seed, args.threads)
    try:
        result = execute(
            run, (args.tensor, args.pipeline, args.expert), args.sequence, args.micro_batch,
            args.family, location(args.base, args.imported),
        )
    except (BridgeError, ChatError, DataError, ModelError, StateError, TargetError,
            OSError) as error:
        return _fail(error)
    if result["status"] == "diverged":
        _say(f"train.bridge: diverged at step {result['steps']}: loss or gradient is not finite",
             sys.stderr)
        return 3
    _say(f"done: {result['steps']} steps, final loss {result['final_loss']:.4f}", sys.stdout)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.bridge", description="Train a LoRA adapter as the recipe says."
    )
    parser.add_argument("--recipe", type=Path, required=True, help="recipe.yaml")
    parser.add_argument("--data", type=Path, required=True, help="train.jsonl of data.build")
    parser.add_argument("--base", type=Path, required=True, help="folder of the base checkpoint")
    parser.add_argument("--seed", type=int, required=True, help="adapter's start, order of rows")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads a process")
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


def _say(text: str, stream: object) -> None:
    """Once, whatever the number of ranks."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=stream)  # type: ignore[call-overload]


def _fail(error: object) -> int:
    _say(f"train.bridge: {error}", sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
