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
import os
import sys
import warnings
from pathlib import Path

from data.recipe import RecipeError, load_recipe

from train.sft import environment


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = _parser().parse_args(argv)
    if importlib.util.find_spec("megatron") is None:
        return _fail("megatron-core is not installed: pip install megatron-core==0.16.1")
    try:
        recipe = load_recipe(args.recipe)
    except RecipeError as error:
        return _fail(error)
    environment(args.threads)
    # megatron-core says of every optional package that it is not there.
    warnings.filterwarnings("ignore", category=UserWarning, module="megatron")
    # Seconds of imports: only for a good recipe, and after the environment is set.
    from eval.chat import ChatError

    from train.batching import DataError
    from train.checkpoint import StateError
    from train.loop import Run
    from train.mcore import layout as layouts
    from train.mcore.loop import execute
    from train.model import ModelError
    from train.targets import TargetError

    run = Run(recipe, args.data, args.base, args.out, args.seed, args.threads)
    layout = layouts.Layout(
        args.tensor, args.pipeline, args.expert, args.precision, args.micro_batch
    )
    try:
        result = execute(run, layout, layouts.start(layout))
    except (ChatError, DataError, ModelError, StateError, TargetError, layouts.LayoutError,
            OSError) as error:
        layouts.stop()
        return _fail(error)
    layouts.stop()
    if result["status"] == "diverged":
        _say(f"train.megatron: diverged at step {result['steps']}: loss or gradient is not finite",
             sys.stderr)
        return 3
    _say(f"done: {result['steps']} steps, final loss {result['final_loss']:.4f}", sys.stdout)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.megatron", description="Train a LoRA adapter as the recipe says."
    )
    parser.add_argument("--recipe", type=Path, required=True, help="recipe.yaml")
    parser.add_argument("--data", type=Path, required=True, help="train.jsonl of data.build")
    parser.add_argument("--base", type=Path, required=True, help="folder of the base checkpoint")
    parser.add_argument("--seed", type=int, required=True, help="adapter's start, order of rows")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads a process")
    parser.add_argument("--tensor", type=int, default=1, help="ranks that share each matrix")
    parser.add_argument("--pipeline", type=int, default=1, help="stages of layers")
    parser.add_argument("--expert", type=int, default=1, help="ranks that share the experts")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32",
                        help="of base and activations; the adapter is fp32")
    parser.add_argument("--micro-batch", type=int, default=0,
                        help="rows a forward pass; 0: all of a rank's; fewer take less memory")
    return parser


def _say(text: str, stream: object) -> None:
    """Once, whatever the number of ranks."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=stream)  # type: ignore[call-overload]


def _fail(error: object) -> int:
    _say(f"train.megatron: {error}", sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
