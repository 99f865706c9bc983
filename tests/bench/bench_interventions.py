"""What each move of the axes catalogue does to dev and hidden, against the default recipe.

    python tests/bench/bench_interventions.py --seeds 4 [--only lr_x2_5] [--work DIR] [--out FILE]

Runs the substrate's own code in one process: data.build, train.loop, eval.evaluate, for every move
that changes recipe values (code patches and checkpoint selection are left out), with the same
seeds as the default recipe. Prints a Markdown table; with --work, finished runs are kept and a
killed bench goes on. About 12 CPU seconds a run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

STACK = Path(__file__).parents[2] / "substrate" / "default"
sys.path.insert(0, str(STACK))
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import yaml  # noqa: E402
from data.build import build  # noqa: E402
from data.recipe import load_recipe  # noqa: E402
from eval import items as item_sets  # noqa: E402
from eval.adapter import load_adapter  # noqa: E402
from eval.evaluate import Evaluator, load_evaluator, score  # noqa: E402
from puzzles import DOMAINS, load_preset  # noqa: E402
from train.peft_backend import execute  # noqa: E402
from train.run import Run  # noqa: E402

PRESET = "tiny"
SETS = {"dev": 720, "hidden": 1200}
REFERENCE = "default"
# Beside the catalogue: what shows where a lever ends.
EXTRA: dict[str, dict[str, Any]] = {
    "equation_only": {"data.mixture": {d: float(d == "equation") for d in DOMAINS}},
    "lr_x10": {"train.learning_rate": 3.0e-2},
    "steps_x2": {"train.steps": 400},
}
# Methods on top of what may stand: SFT's strongest lever, a budget of which SFT's half is what the
# default has, and traces, which sampling can choose.
ON_TOP: dict[str, dict[str, Any]] = {
    "lr_x5": {"train.learning_rate": 1.0e-2},
    "steps_x2": {"train.steps": 400},
    "trace_rule": {
        "data.trace": {
            "style": "none",
            "fraction": 1.0,
            "domains": {"cipher": "short", "equation": "short"},
        }
    },
}
METHODS = ("rft", "dpo", "grpo")


def moves() -> dict[str, dict[str, Any]]:
    """Name -> recipe values, of the whole catalogue and the extras."""
    found: dict[str, dict[str, Any]] = {REFERENCE: {}}
    for axis in yaml.safe_load((STACK / "axes.yaml").read_text())["axes"]:
        for move in axis["moves"]:
            values = move.get("set", {})
            if values and not any(key.startswith("select.") for key in values):
                found[move["id"]] = values
    for name in METHODS:
        found |= {f"{under}+{name}": own | found[name] for under, own in ON_TOP.items()}
    return found | EXTRA


def recipe_with(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The default recipe with `values` at their dotted keys, checked as any recipe is."""
    recipe = yaml.safe_load((STACK / "recipe.yaml").read_text())
    for key, value in values.items():
        *sections, last = key.split(".")
        place = recipe
        for section in sections:
            place = place.setdefault(section, {})  # optional ones are not in the file
        place[last] = value
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return load_recipe(path)


def run(
    values: dict[str, Any], seed: int, base: Path, folder: Path, evaluators: dict[str, Evaluator]
) -> dict[str, Any]:
    """Build, train and score one recipe; the last checkpoint counts."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = recipe_with(values, folder)
    rows, _ = build(recipe, load_preset(PRESET), seed)
    data = folder / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trained = execute(Run(recipe, data, base, folder / "out", seed, threads=1))
    outcome: dict[str, Any] = {"status": trained["status"], "seconds": trained["seconds"]}
    if trained["checkpoints"]:
        adapter = folder / "out" / trained["checkpoints"][-1]["path"]
        for name, evaluator in evaluators.items():
            loaded = load_adapter(adapter, evaluator.shapes)
            outcome[name] = score(evaluator.predictions(loaded))
    shutil.rmtree(folder)
    return outcome


def cached(path: Path, work: Any) -> dict[str, Any]:
    """The record at `path`, made by `work` if it is not there."""
    if not path.is_file():
        value = work()
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(value))
        temporary.replace(path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def row(name: str, runs: list[dict[str, Any]], reference: list[dict[str, Any]]) -> str:
    """One line of the table: mean and sd over seeds, and the paired difference to the default."""
    cells = [name]
    for split in SETS:
        values = [r[split]["dev"] for r in runs if split in r]
        if len(values) < len(runs):
            return f"| {name} | diverged | | | | | |"
        paired = [v - r[split]["dev"] for v, r in zip(values, reference, strict=True)]
        sd = statistics.stdev(values) if len(values) > 1 else float("nan")
        cells += [f"{statistics.mean(values):.3f}", f"{sd:.3f}", f"{statistics.mean(paired):+.3f}"]
    by_domain = [statistics.mean(r["dev"]["domains"][d]["accuracy"] for r in runs) for d in DOMAINS]
    cells.append(" ".join(f"{accuracy:.2f}" for accuracy in by_domain).replace("0.", "."))
    cells.append(f"{statistics.mean(r['seconds'] for r in runs):.0f}")
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Effect of every move on dev and hidden.")
    parser.add_argument("--seeds", type=int, default=4, help="runs of each move")
    parser.add_argument("--first-seed", type=int, default=1, help="of data and training")
    parser.add_argument("--items-seed", type=int, default=1, help="draws dev and hidden")
    parser.add_argument("--only", default="", help="names of moves, comma-separated; default all")
    parser.add_argument("--base", type=Path, default=STACK / "base" / "tiny")
    parser.add_argument("--work", type=Path, help="keeps finished runs")
    parser.add_argument("--out", type=Path, help="also write the table here")
    args = parser.parse_args()
    wanted = [part for part in args.only.split(",") if part]
    chosen = {
        name: values
        for name, values in moves().items()
        if name == REFERENCE or not wanted or name in wanted
    }
    work = args.work or Path(tempfile.mkdtemp(prefix="interventions-"))
    work.mkdir(parents=True, exist_ok=True)
    preset = load_preset(PRESET)
    evaluators = {
        split: load_evaluator(item_sets.items(preset, split, n, args.items_seed), args.base, 48)
        for split, n in SETS.items()
    }

    def bare() -> dict[str, Any]:
        return {split: score(e.predictions(None)) for split, e in evaluators.items()}

    base = cached(work / "base.json", bare)
    lines = [
        "| move | dev | sd | vs default | hidden | sd | vs default "
        f"| dev by domain ({' '.join(DOMAINS)}) | s |",
        "|---|---|---|---|---|---|---|---|---|",
        row("base", [{**base, "seconds": 0}], [base]),
    ]
    print("\n".join(lines), flush=True)
    reference: list[dict[str, Any]] = []
    for name, values in chosen.items():
        runs = []
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            folder = work / f"{name}-{seed}"

            def one(v: Any = values, s: int = seed, f: Path = folder) -> dict[str, Any]:
                return run(v, s, args.base, f, evaluators)

            with contextlib.redirect_stdout(io.StringIO()):  # progress lines
                runs.append(cached(work / f"{name}-{seed}.json", one))
        reference = reference or runs
        lines.append(row(name, runs, reference))
        print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
