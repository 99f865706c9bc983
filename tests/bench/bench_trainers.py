"""Tokens per second of trainer=megatron against trainer=peft: same model, data, recipe, machine.

    python tests/bench/bench_trainers.py [--steps 30] [--batch 32] [--repeats 3] [--hidden 64]

One process and one thread each, CPU (a GPU is used where torch finds one). The trainers take turns,
so that other work on the machine meets both; the first three steps of a run do not count, and a
trainer's figure is the median over all its other steps of tokens / seconds, as metrics.jsonl has
them. The third row packs the examples, which transformers' Nemotron-H cannot. Prints a table and
one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
SUBSTRATE = REPO / "substrate" / "default"
sys.path.insert(0, str(SUBSTRATE))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
WARM = 3  # steps at the beginning of a run that do not count


def recipe_of(steps: int, batch: int) -> dict[str, Any]:
    """The default recipe at another length."""
    import yaml

    recipe: dict[str, Any] = yaml.safe_load((SUBSTRATE / "recipe.yaml").read_text())
    recipe["train"] |= {"steps": steps, "batch_size": batch, "checkpoints": 1}
    return recipe


def speeds(out: Path) -> list[float]:
    """Tokens per second of the steps that count."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["tokens"] / line["seconds"] for line in lines[WARM:]]


def measure(folder: Path, args: argparse.Namespace) -> dict[str, list[float]]:
    """Speeds of every step that counts, by trainer."""
    import torch
    from base.nemotron import make
    from data.build import build
    from puzzles import load_preset
    from train import peft_backend as peft
    from train.mcore import backend as mcore
    from train.mcore import layout
    from train.run import Run

    recipe = recipe_of(args.steps, args.batch)
    rows, _ = build(recipe, load_preset("tiny"), 7)
    data, base = folder / "train.jsonl", folder / "base"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    make(base, hidden=args.hidden)
    device = layout.start(layout.Layout())
    packed = recipe | {"train": recipe["train"] | {"packing": True}}
    found: dict[str, list[float]] = {"peft": [], "megatron": [], "megatron, packed": []}
    for turn in range(args.repeats):
        for name in found:
            out = folder / f"{name}-{turn}"
            chosen = packed if "packed" in name else recipe
            run = Run(chosen, data, base, out, seed=7, threads=1)
            if name == "peft":
                peft.execute(run)
            else:
                mcore.execute(run, layout.Layout(), torch.device(device))
            found[name] += speeds(out)
            print(
                f"turn {turn + 1} {name}: {statistics.median(speeds(out)):.0f} tokens/s",
                file=sys.stderr,
                flush=True,
            )
    layout.stop()
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=64, help="width of the model")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), args)
    medians = {name: statistics.median(values) for name, values in found.items()}
    print("| trainer | tokens/s, median | quartiles | ratio to peft |")
    print("|---|---|---|---|")
    for name, values in found.items():
        low, _, high = statistics.quantiles(values, n=4)
        print(
            f"| {name} | {medians[name]:.0f} | {low:.0f} to {high:.0f} "
            f"| {medians[name] / medians['peft']:.2f} |"
        )
    print(json.dumps({"arguments": vars(args), "median": medians}))


if __name__ == "__main__":
    main()
