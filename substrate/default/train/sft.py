"""LoRA supervised fine-tuning: one run of the recipe's `train` section.

    python -m train.sft --recipe recipe.yaml --data DIR/train.jsonl --base base/tiny --seed 7 \\
        --out OUT

Writes OUT/metrics.jsonl (a line a step), OUT/checkpoints/step-NNNNNN (peft adapters), OUT/state
(to go on from) and last OUT/result.json. Killed at any instant and run again with the same
arguments it goes on and gives the same adapters bit for bit. Exit status: 0 done, 2 bad arguments,
3 diverged.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

from data.recipe import RecipeError, load_recipe


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m train.sft", description="Train a LoRA adapter as the recipe says."
    )
    parser.add_argument("--recipe", type=Path, required=True, help="recipe.yaml")
    parser.add_argument("--data", type=Path, required=True, help="train.jsonl of data.build")
    parser.add_argument("--base", type=Path, required=True, help="folder of the base checkpoint")
    parser.add_argument("--seed", type=int, required=True, help="adapter's start, order of rows")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args(argv)
    try:
        recipe = load_recipe(args.recipe)
    except RecipeError as error:
        return _fail(error)
    environment(args.threads)
    # Seconds of imports: only for a good recipe, and after the environment is set.
    from eval.chat import ChatError

    from train.batching import DataError
    from train.checkpoint import StateError
    from train.loop import Run, execute
    from train.model import ModelError

    run = Run(recipe, args.data, args.base, args.out, args.seed, args.threads)
    try:
        result = execute(run)
    except (ChatError, DataError, ModelError, StateError, OSError) as error:
        return _fail(error)
    if result["status"] == "diverged":
        print(
            f"train.sft: diverged at step {result['steps']}: loss or gradient is not finite",
            file=sys.stderr,
        )
        return 3
    print(f"done: {result['steps']} steps, final loss {result['final_loss']:.4f}")
    return 0


def environment(threads: int) -> None:
    """One place for what the libraries read once, when imported. Nothing may reach the network."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products


def _fail(error: Exception) -> int:
    print(f"train.sft: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
