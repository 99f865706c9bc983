"""Rounds in which nothing changes but the random stream: how often is something claimed?

    python tests/bench/bench_null.py measure --runs 60 --work DIR [--out tests/bench/null_runs.json]
    python tests/bench/bench_null.py judge [--rounds 400] [--data tests/bench/null_runs.json]

`measure` trains and scores the tiny model again and again on each of two recipes (data, order and
adapter drawn anew; about 7 CPU seconds a run; killed and run again it goes on) and condenses the
runs into one file, beside those that the file holds already. It may run for an hour:
`nohup … measure … > measure.log &`.

`judge` draws rounds of an anchor and explorers from those runs without replacement, lets the
evidence and the promotion rule of a real campaign judge them, and reports the share of rounds with
a promotion (every one of them a false claim), with Wilson's interval, the share in which the recipe
that forks start from moved at all, and the distribution of the p of all effects.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from aevo.policy.promotion import effect_of
from aevo.records.policy import Provenance, StandingChange
from aevo.simulate import default_bench
from aevo.studies.simulation.campaign import Parts, simulate
from aevo.studies.simulation.space import Recipe, Space
from aevo.studies.simulation.study import wilson
from aevo.studies.simulation.surface import draw, preset
from aevo.studies.simulation.world import Run, World
from aevo.substrate.catalogue import Catalogue

HERE = Path(__file__).parent
DATA = HERE / "null_runs.json"
FIRST_SEED = 1001


def bits(answers: list[bool]) -> str:
    """Answers in the order of the items, as hexadecimal digits."""
    return f"{int(''.join('1' if one else '0' for one in answers), 2):0{-(-len(answers) // 4)}x}"


def measure(runs: int, work: Path, out: Path) -> None:
    """Makes the runs that are missing, the two recipes in turn, and condenses all there are."""
    import bench_interventions as stack

    recipes: dict[str, dict[str, Any]] = {"default": {}, "lr_x5": stack.moves()["lr_x5"]}
    work.mkdir(parents=True, exist_ok=True)
    take_up(work, out)
    preset = stack.load_preset(stack.PRESET)
    base = stack.STACK / "base" / "tiny"
    sets = {split: stack.item_sets.items(preset, split, n, 1) for split, n in stack.SETS.items()}
    evaluators = {name: stack.load_evaluator(of, base, 48) for name, of in sets.items()}
    for seed in range(FIRST_SEED, FIRST_SEED + runs):
        for name, values in recipes.items():
            path = work / f"{name}-{seed}.json"
            if path.exists():
                continue
            with (
                tempfile.TemporaryDirectory(dir=work) as folder,
                contextlib.redirect_stdout(io.StringIO()),
            ):
                found = one(stack, values, seed, base, Path(folder), evaluators)
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(found))
            temporary.replace(path)
            print(name, seed, max(found["checkpoints"]), flush=True)
            condense(work, out, sets)


def take_up(work: Path, out: Path) -> None:
    """The runs that were condensed earlier, as if this folder had made them: their seeds are
    consecutive."""
    known = json.loads(out.read_text())["runs"] if out.exists() else {}
    for name, runs in known.items():
        for seed, run in enumerate(runs, start=FIRST_SEED):
            path = work / f"{name}-{seed}.json"
            if not path.exists():
                path.write_text(json.dumps(run))


def one(
    stack: Any,
    values: dict[str, Any],
    seed: int,
    base: Path,
    folder: Path,
    evaluators: dict[str, Any],
) -> dict[str, Any]:
    """One run: dev of all checkpoints, the answers of the one that dev selects."""
    recipe = stack.recipe_with(values, folder)
    rows, _ = stack.build(recipe, stack.load_preset(stack.PRESET), seed)
    data = folder / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trained = stack.execute(stack.Run(recipe, data, base, folder / "out", seed, threads=1))
    dev = evaluators["dev"]
    answers = []
    for checkpoint in trained["checkpoints"]:
        adapter = stack.load_adapter(folder / "out" / checkpoint["path"], dev.shapes)
        answers.append([bool(row["correct"]) for row in dev.predictions(adapter)])
    best = max(range(len(answers)), key=lambda index: (sum(answers[index]), -index))
    adapter = stack.load_adapter(folder / "out" / trained["checkpoints"][best]["path"], dev.shapes)
    hidden = [bool(row["correct"]) for row in evaluators["hidden"].predictions(adapter)]
    shutil.rmtree(folder / "out")
    return {
        "checkpoints": [round(sum(found) / len(found), 6) for found in answers],
        "best": best,
        "dev": bits(answers[best]),
        "hidden": bits(hidden),
    }


def condense(work: Path, out: Path, sets: dict[str, Any]) -> None:
    """All runs in one file, with the items' domains in order."""
    runs: dict[str, Any] = {}
    for path in sorted(work.glob("*-*.json")):
        runs.setdefault(path.stem.rpartition("-")[0], []).append(json.loads(path.read_text()))
    domains = {name: [row["domain"] for row in rows] for name, rows in sets.items()}
    whole = {"domains": domains, "runs": runs}
    out.write_text(json.dumps(whole, separators=(",", ":")) + "\n")


class NullWorld(World):
    """A world in which every candidate gets a real run of one recipe, whatever it tries; no run is
    drawn twice in a round."""

    def __init__(self, data: dict[str, Any], recipe: str, seed: int) -> None:
        sets, runs = data["domains"], data["runs"][recipe]
        names = sorted(set(sets["dev"]))
        self.surface = draw(preset("no_effect", domains=dict.fromkeys(names, 0.5)), NOTHING, 0)
        self.domain_of = np.array([names.index(name) for name in sets["dev"]])
        self.ids = [f"i{index:04d}" for index in range(len(self.domain_of))]
        self.domain_by_id = dict(zip(self.ids, sets["dev"], strict=True))
        self.runs = [
            (answers(run["dev"], len(sets["dev"])), answers(run["hidden"], len(sets["hidden"])))
            for run in runs
        ]
        self.random, self.left, self.round = random.Random(seed), [0], 0

    def run(self, recipe: Recipe, seed: int, number: int) -> Run:
        if number != self.round:
            self.round, self.left = number, list(range(len(self.runs)))
            self.random.shuffle(self.left)
        dev, hidden = self.runs[self.left.pop()]
        return Run(recipe, dev, float(dev.mean()), float(hidden.mean()))


NOTHING = Space({}, {}, {})


def answers(text: str, count: int) -> np.ndarray:
    """The answers that `bits` wrote."""
    return np.array([digit == "1" for digit in f"{int(text, 16):0{count}b}"])


def stands(recipe: str, catalogue: Catalogue) -> Parts:
    """A campaign on which that recipe stands already."""
    change = next(
        (move.change for axis in catalogue.axes for move in axis.moves if move.id == recipe), None
    )
    if change is None:
        return Parts(judged=False)
    standing = StandingChange(
        id=f"r00-c00-{recipe}",
        axis="learning_rate",
        change=change,
        provenance=Provenance(round=0, figure="given"),
    )
    return Parts(
        policy=lambda policy: policy.model_copy(update={"standing": [standing]}), judged=False
    )


def judge(data: dict[str, Any], rounds: int, length: int) -> str:
    """Campaigns of `length` rounds until there are `rounds` of them, by recipe, as a table."""
    bench = default_bench([])
    lines = [
        "| recipe | runs | sd of dev, hidden | rounds | false claims / round | 95 % | likely steps "
        "| p <= 0.01, 0.05, 0.25, 0.50 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in data["runs"].items():
        false, steps, p_values = 0, 0, []
        for seed in range(rounds // length):
            found = simulate(
                bench.for_seed(seed),
                NullWorld(data, name, seed),
                length,
                stands(name, bench.catalogue),
            )
            for item in found.rounds:
                fresh = [one for one in item.next.standing if one not in item.policy.standing]
                false += any(one.established for one in fresh)
                steps += bool(fresh)
                known = [
                    effect_of(one, item.evidence.calibration, item.next.objective)
                    for one in item.evidence.candidates
                ]
                p_values += [one.p for one in known if one is not None]
        total = rounds // length * length
        low, high = wilson(false, total)
        spread = ", ".join(
            f"{np.std([answers(run[split], len(of)).mean() for run in runs], ddof=1):.4f}"
            for split, of in data["domains"].items()
        )
        shares = ", ".join(
            f"{np.mean(np.array(p_values) <= level):.3f}" for level in (0.01, 0.05, 0.25, 0.50)
        )
        lines.append(
            f"| {name} | {len(runs)} | {spread} | {total} | {false / total:.3f} "
            f"| {low:.3f} to {high:.3f} | {steps / total:.3f} | {shares} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["measure", "judge"])
    parser.add_argument("--runs", type=int, default=60, help="of each recipe")
    parser.add_argument("--rounds", type=int, default=400, help="resampled, of each recipe")
    parser.add_argument("--length", type=int, default=2, help="rounds of a resampled campaign")
    parser.add_argument("--work", type=Path, default=Path("null-runs"), help="keeps single runs")
    parser.add_argument("--data", "--out", type=Path, default=DATA, help="the condensed runs")
    args = parser.parse_args()
    if args.what == "measure":
        sys.path.insert(0, str(HERE))
        measure(args.runs, args.work, args.data)
    else:
        print(judge(json.loads(args.data.read_text()), args.rounds, args.length))
    return 0


if __name__ == "__main__":
    sys.exit(main())
