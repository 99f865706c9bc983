"""Tokens per second with many routed experts: trainer=megatron, the same at another commit, and
trainer=peft; same model, data, recipe, machine.

    git worktree add ../before COMMIT
    python tests/bench/bench_experts.py --before ../before [--experts 16,128] [--steps 12]

Each run is a process of its own, one thread, CPU. Seconds are those of the processor, not of the
clock (the trainers' clock is replaced by it): other work on the machine disturbs less. The
contestants take turns; the first three steps of a run do not count, and a figure is the median over
all other steps of tokens / seconds, as metrics.jsonl has them. Without --before only megatron and
peft run. Prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))

from tests.bench.bench_trainers import SUBSTRATE, recipe_of, speeds  # noqa: E402

CPU_CLOCK = (
    "import runpy, sys, time; time.perf_counter = time.process_time; "
    "sys.argv.pop(0); runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)
Contestant = tuple[Path, str]  # substrate folder, module
PER_TOKEN = 6  # experts that a token goes to, as in Nemotron 3 Nano


def prepare(folder: Path, experts: int, args: argparse.Namespace) -> None:
    """Base, data and recipe of one comparison."""
    import yaml
    from base.nemotron import make
    from data.build import build
    from puzzles import load_preset

    folder.mkdir()
    recipe = recipe_of(args.steps, args.batch)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rows, _ = build(recipe, load_preset("tiny"), 7)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make(folder / "base", hidden=args.hidden, experts=experts, chosen=PER_TOKEN)


def run(folder: Path, contestant: Contestant, out: Path) -> list[float]:
    """Speeds of the steps that count of one training."""
    substrate, module = contestant
    subprocess.run(
        [
            sys.executable,
            "-c",
            CPU_CLOCK,
            module,
            "--recipe",
            str(folder / "recipe.yaml"),
            "--data",
            str(folder / "train.jsonl"),
            "--base",
            str(folder / "base"),
            "--seed",
            "7",
            "--out",
            str(out),
        ],
        cwd=substrate,
        env=os.environ | {"PYTHONPATH": str(substrate)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return speeds(out)


def measure(folder: Path, args: argparse.Namespace) -> dict[str, list[float]]:
    """Speeds of one model by contestant."""
    contestants: dict[str, Contestant] = {
        "peft": (SUBSTRATE, "train.sft"),
        "megatron": (SUBSTRATE, "train.megatron"),
    }
    if args.before:
        before = args.before.resolve() / "substrate" / "default"
        contestants["megatron, before"] = (before, "train.megatron")
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(args.repeats):
        for name, contestant in contestants.items():
            found[name] += run(folder, contestant, folder / f"{name}-{turn}")
            print(
                f"{folder.name} turn {turn + 1} {name}: "
                f"{statistics.median(found[name]):.0f} tokens/s",
                file=sys.stderr,
                flush=True,
            )
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="checkout of another commit to compare with")
    parser.add_argument("--experts", default="16,128", help="routed experts a layer, by commas")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=64, help="width of the model")
    args = parser.parse_args()
    medians: dict[str, dict[str, float]] = {}
    print("| experts | trainer | tokens/s, median | ratio to megatron |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for experts in args.experts.split(","):
            folder = Path(temporary) / experts
            prepare(folder, int(experts), args)
            found = {name: statistics.median(all_) for name, all_ in measure(folder, args).items()}
            medians[experts] = found
            for name, value in found.items():
                print(
                    f"| {experts} | {name} | {value:.0f} | {value / found['megatron']:.2f} |",
                    flush=True,
                )
    settings = {name: str(value) for name, value in vars(args).items()}
    print(json.dumps({"arguments": settings, "median": medians}))


if __name__ == "__main__":
    main()
