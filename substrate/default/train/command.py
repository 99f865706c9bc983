"""What the trainers' commands have in common: arguments, environment, messages, exit status."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.recipe import RecipeError, load_recipe

from train.rl.plan import staged

if TYPE_CHECKING:
    from train.run import Run

DONE, MISTAKE, DIVERGED = 0, 2, 3  # exit status
Errors = tuple[type[Exception], ...]


@dataclass(frozen=True)
class Command:
    """One of them. `name` is the module's; a `distributed` one is started once per rank, of which
    the first speaks."""

    name: str
    distributed: bool = False
    stages: bool = False  # whether it can do more than SFT (train.stages)

    def parser(self) -> argparse.ArgumentParser:
        """The arguments of every trainer; each adds its own."""
        parser = argparse.ArgumentParser(
            prog=f"python -m {self.name}", description="Train a LoRA adapter as the recipe says."
        )
        add = parser.add_argument
        add("--recipe", type=Path, required=True, help="recipe.yaml")
        add("--data", type=Path, required=True, help="train.jsonl of data.build")
        add("--base", type=Path, required=True, help="folder of the base checkpoint")
        add("--seed", type=int, required=True, help="adapter's start, order of rows")
        add("--out", type=Path, required=True, help="output folder")
        add("--threads", type=int, default=1, help="CPU threads a process")
        return parser

    def follow(self, args: argparse.Namespace, train: Callable[[Run], dict[str, Any]],
               own_errors: Callable[[], Errors] = tuple) -> int:
        """One run as the arguments say; returns the exit status.

        The recipe is checked before `train` is called: what that imports takes seconds, and reads
        the environment that is set here.

        Args:
            train: gives the content of result.json.
            own_errors: mistakes that only this trainer names in one line.
        """
        try:
            recipe = load_recipe(args.recipe)
        except RecipeError as error:
            return self.fail(error)
        if staged(recipe["train"]) and not self.stages:
            return self.fail("train.stages: this trainer does sft alone; use trainer=peft")
        environment(args.threads)
        from train.run import Run

        run = Run(recipe, args.data, args.base, args.out, args.seed, args.threads)
        try:
            result = train(run)
        except (*mistakes(), *own_errors()) as error:
            return self.fail(error)
        if result["status"] == "diverged":
            self._say(f"{self.name}: diverged at step {result['steps']}: loss or gradient is not "
                      "finite", error=True)
            return DIVERGED
        self._say(f"done: {result['steps']} steps, final loss {result['final_loss']:.4f}")
        return DONE

    def fail(self, error: object) -> int:
        """Say what was wrong; returns the exit status."""
        self._say(f"{self.name}: {error}", error=True)
        return MISTAKE

    def _say(self, text: str, error: bool = False) -> None:
        if not self.distributed or os.environ.get("RANK", "0") == "0":
            print(text, file=sys.stderr if error else sys.stdout)


def environment(threads: int) -> None:
    """One place for what the libraries read once, when imported. Nothing may reach the network."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products


def mistakes() -> Errors:
    """What any trainer ends with in one line. Asked for when something was raised."""
    from eval.chat import ChatError

    from train.batching import DataError
    from train.checkpoint import StateError
    from train.peft_format import ModelError
    from train.targets import TargetError

    return ChatError, DataError, ModelError, StateError, TargetError, OSError
