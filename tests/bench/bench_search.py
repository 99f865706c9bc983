"""Searchers on the real tiny substrate, at the number of runs that a campaign of aevo spends.

    python tests/bench/bench_search.py --searches greedy random --seeds 1 2 3 --work DIR \
        --campaigns runs/shift-1 runs/shift-2 runs/shift-3

Each searcher of `aevo.studies.simulation` asks for recipes (moves of the catalogue, code patches
included) and is told the dev score of each run and, where it submits, what a leaderboard with the
default's rounding and quota would say. A run forks the substrate, applies the moves, builds the
data there, trains, scores every checkpoint on dev and selects by the recipe's criterion, as a real
round does; the selected one is scored on hidden. The search's seed draws the items. What a search
ends with is trained on seeds that it never saw; its hidden score is compared with the default
recipe's on the same seeds and items; so are the standing recipe and the one to ship of finished
campaigns of aevo, whose `model.items_seed` must be the seed (and its leaderboard the shifted one).
Prints a Markdown table. With --work finished runs are kept: a killed bench goes on, and searches
with the same seed share runs of the same recipe. About 10 CPU seconds a run.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[2]
STACK = REPO / "substrate" / "default"
sys.path[:0] = [str(REPO), str(STACK)]
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np  # noqa: E402
from data.recipe import load_recipe  # noqa: E402
from eval import items as item_sets  # noqa: E402
from eval.adapter import load_adapter  # noqa: E402
from eval.evaluate import Evaluator, load_evaluator, score  # noqa: E402
from puzzles import load_preset  # noqa: E402
from train.peft_backend import execute  # noqa: E402
from train.run import Run as Training  # noqa: E402

from aevo import release  # noqa: E402
from aevo.errors import AevoError, ConfigError  # noqa: E402
from aevo.evaluate.criterion import criterion_of  # noqa: E402
from aevo.files.documents import read  # noqa: E402
from aevo.files.paths import Layout  # noqa: E402
from aevo.plan.candidates import derive_seed, standing_changes  # noqa: E402
from aevo.policy import document as policies  # noqa: E402
from aevo.policy import trials  # noqa: E402
from aevo.records.campaign import Campaign  # noqa: E402
from aevo.records.change import Change  # noqa: E402
from aevo.records.evidence import Evidence  # noqa: E402
from aevo.records.manifest import CheckpointScore, best_of  # noqa: E402
from aevo.records.policy import Policy  # noqa: E402
from aevo.records.scores import Score  # noqa: E402
from aevo.studies.simulation.campaign import recipe_of  # noqa: E402
from aevo.studies.simulation.searchers import SEARCHERS, Observation, Searcher, search  # noqa: E402
from aevo.studies.simulation.space import Recipe, Space, space_of  # noqa: E402
from aevo.studies.simulation.tpe import Tpe  # noqa: E402
from aevo.studies.simulation.world import Run  # noqa: E402
from aevo.substrate.catalogue import load  # noqa: E402
from aevo.substrate.frozen import open_substrate  # noqa: E402

PRESET = "tiny"
SETS = {"dev": 720, "hidden": 1200}
MAX_NEW = 48  # tokens of an answer, as the substrate's own evaluation of this model takes
DEFAULT: Recipe = ()
DECIMALS, QUOTA = 2, 5  # conf/leaderboard/holdout
ROUNDS = 4  # of a campaign of aevo that spends as many runs


@dataclass
class Trainer:
    """Runs of the real substrate for one set of items; what `World` is on a surface.

    Attributes:
        work: keeps one JSON file a run, `<recipe and seed>.json`.
        items_seed: draws dev and hidden.
        hidden: the split that stands for the target; `hidden_unshifted` is dev's own distribution.
        trained: runs made by this process, beside those found in `work`.
    """

    space: Space
    work: Path
    items_seed: int
    base: Path = STACK / "base" / "tiny"
    hidden: str = "hidden"
    trained: int = 0
    _known: dict[tuple[Recipe, int, str], Run] = field(default_factory=dict)

    @cached_property
    def evaluators(self) -> dict[str, Evaluator]:
        """Base and items by split, loaded when the first run is scored."""
        preset = load_preset(PRESET)
        drawn = {"dev": "dev", "hidden": self.hidden}
        return {
            split: load_evaluator(
                item_sets.items(preset, drawn[split], n, self.items_seed), self.base, MAX_NEW
            )
            for split, n in SETS.items()
        }

    def run(self, recipe: Recipe, seed: int, select: Change | None = None) -> Run:
        """Trains and scores a recipe, whose checkpoint `select` may choose.

        A run that diverged before its first checkpoint answers nothing.

        Raises:
            SubstrateError: two of the recipe's patches do not fit together.
        """
        active = self.space.active(recipe)
        more = [] if select is None or select.empty else [select]
        words = [item.model_dump_json() for item in more]
        words += [] if self.hidden == "hidden" else [self.hidden]
        key = active, seed, "".join(words)
        if key not in self._known:
            name = hashlib.sha256(repr((sorted(active), seed, self.items_seed, *words)).encode())
            path = self.work / f"{name.hexdigest()[:16]}.json"
            if not path.is_file():
                changes = [*(self.space.moves[item].change for item in active), *more]
                made = self._train(changes, seed, path.with_suffix(""))
                record = {"recipe": active, "seed": seed, "items_seed": self.items_seed, **made}
                temporary = path.with_suffix(".tmp")
                temporary.write_text(json.dumps(record))
                temporary.replace(path)
                self.trained += 1
            record = json.loads(path.read_text())
            correct = np.array([answer == "1" for answer in record["correct"]])
            self._known[key] = Run(active, correct, record["dev"], record["hidden"])
        return self._known[key]

    def _train(self, changes: list[Change], seed: int, folder: Path) -> dict[str, Any]:
        """One run from the fork to the hidden score; `folder` is gone afterwards."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        fork, data = folder / "fork", folder / "data"
        if any(not edit.file.startswith("data/") for item in changes for edit in item.edits):
            raise SystemExit("a move patches training code, which this bench has loaded unpatched")
        substrate = open_substrate(STACK)
        substrate.fork(fork, changes)
        step = substrate.command("data", fork, preset=PRESET, seed=seed, out=data)
        built = subprocess.run(
            step.argv, cwd=step.cwd, env={**os.environ, **step.env}, capture_output=True, text=True
        )
        if built.returncode:  # moves that do not go together are a result of the search
            shutil.rmtree(folder)
            return {"status": built.stderr.strip()[-300:], "seconds": 0.0, **self._nothing()}
        recipe = load_recipe(fork / "recipe.yaml")
        with contextlib.redirect_stdout(io.StringIO()):  # progress lines
            trained = execute(
                Training(recipe, data / "train.jsonl", self.base, folder / "out", seed, threads=1)
            )
        outcome = self._score(recipe, trained["checkpoints"], folder / "out")
        shutil.rmtree(folder)
        return {"status": trained["status"], "seconds": trained["seconds"], **outcome}

    def _nothing(self) -> dict[str, Any]:
        return {"correct": "0" * SETS["dev"], "dev": 0.0, "hidden": 0.0, "step": None}

    def _score(
        self, recipe: dict[str, Any], checkpoints: list[dict[str, Any]], out: Path
    ) -> dict[str, Any]:
        """Dev of every checkpoint; answers and hidden score of the one that is selected."""
        criterion = criterion_of(recipe)
        rows: dict[str, list[dict[str, Any]]] = {}
        scored = []
        dev = self.evaluators["dev"]
        for item in checkpoints:
            found = dev.predictions(load_adapter(out / item["path"], dev.shapes))
            value = Score.model_validate(score(found))
            rows[item["path"]] = found
            scored.append(
                CheckpointScore(
                    name=item["path"],
                    step=item["step"],
                    dev=value.dev or 0.0,
                    selection_score=criterion.score(value, item["step"]),
                    domains=value.domains,
                    adapter_sha256="0" * 64,
                )
            )
        chosen = best_of(scored)
        if chosen is None:
            return self._nothing()
        hidden = self.evaluators["hidden"]
        board = score(hidden.predictions(load_adapter(out / chosen.name, hidden.shapes)))
        correct = "".join("1" if row["correct"] else "0" for row in rows[chosen.name])
        return {
            "correct": correct,
            "dev": chosen.dev,
            "hidden": board["dev"],
            "step": chosen.step,
            "domains": {name: item["accuracy"] for name, item in board["domains"].items()},
        }


@dataclass(frozen=True)
class Ending:
    """What a search ended with: means over runs that it did not see, and the same of the default
    recipe on the same seeds."""

    searcher: str
    seed: int
    recipe: Recipe
    promised: float  # the highest dev that the search saw
    dev: float
    hidden: float
    default_dev: float
    default_hidden: float

    @property
    def gains(self) -> tuple[float, float]:
        """Of dev and of hidden over the default recipe."""
        return self.dev - self.default_dev, self.hidden - self.default_hidden


def play(name: str, seed: int, trainer: Trainer, runs: int, fresh: int) -> Ending:
    """One search of `runs` runs, and `fresh` more runs of what it ends with."""
    known: dict[str, type[Searcher]] = {**SEARCHERS, Tpe.name: Tpe}
    if name not in known:
        raise ConfigError(f"--searches {name} is unknown", f"one of {', '.join(known)}")
    promised = 0.0

    def trained(recipe: Recipe, batch: int) -> Run:
        return trainer.run(recipe, derive_seed(seed, "train", batch))

    def trial(recipe: Recipe, batch: int, number: int) -> Observation:
        nonlocal promised
        found = trained(recipe, batch)
        promised = max(promised, found.dev)
        print(f"{name} {seed}: dev {found.dev:.4f} {words(recipe)}", file=sys.stderr, flush=True)
        return Observation(recipe, found.dev)

    def board(item: Observation, batch: int, number: int) -> float:
        return trained(item.recipe, batch).board(DECIMALS)

    searcher = known[name](trainer.space, seed)
    recipe = search(searcher, trial, board, runs, max(1, runs // ROUNDS), QUOTA)[-1]
    return judged(name, seed, recipe, promised, trainer, fresh)


def judged(
    name: str,
    seed: int,
    recipe: Recipe,
    promised: float,
    trainer: Trainer,
    fresh: int,
    select: Change | None = None,
) -> Ending:
    """What a recipe is worth on `fresh` seeds that no search saw, beside the default recipe."""
    means = []
    for which, chosen in ((recipe, select), (DEFAULT, None)):
        found = [trainer.run(which, derive_seed(seed, "fresh", k), chosen) for k in range(fresh)]
        means += [
            statistics.mean(getattr(run, score) for run in found) for score in ("dev", "hidden")
        ]
    return Ending(name, seed, recipe, promised, *means)


def campaign(root: Path, space: Space, work: Path, fresh: int) -> list[Ending]:
    """What a finished campaign of aevo stands by, and what it would ship.

    Raises:
        ConfigError: its items were not drawn with a seed that it names.
        RecordError: it is no campaign, or a record of it is corrupt.
    """
    layout = Layout(root)
    model = read(Campaign, layout.campaign).config["model"]
    if model["name"] != PRESET or model["items_seed"] is None:
        raise ConfigError(
            f"{root}: model={model['name']}, items_seed={model['items_seed']}",
            "run it with model=tiny model.items_seed=N",
        )
    seed, options = int(model["items_seed"]), release.read_options(layout)
    trainer = Trainer(space, work, items_seed=seed)
    rounds = [one for one in layout.rounds() if one.evidence.exists()]
    seen = [item.dev or 0.0 for one in rounds for item in read(Evidence, one.evidence).candidates]
    last = policies.read(layout, rounds[-1].number + 1)
    best = options[0]
    under, after = (policies.read(layout, best.round + i) for i in (0, 1))
    own = [(ref.axis, ref.move) for ref in trials.moves_of(after.tried, best.round, best.candidate)]
    found = []
    for name, policy, moves in (("aevo", last, ()), ("aevo, to ship", under, own)):
        recipe = (*recipe_of(policy), *moves)
        found.append(judged(name, seed, recipe, max(seen), trainer, fresh, selecting(policy)))
    return found


def selecting(policy: Policy) -> Change | None:
    """How the policy has checkpoints chosen, where that is not by dev."""
    changes = standing_changes(policy)[len(policy.standing) :]
    return changes[0] if changes else None


def words(recipe: Recipe) -> str:
    """The moves of a recipe in one line."""
    return " + ".join(move for _, move in recipe) or "default"


def table(endings: list[Ending]) -> str:
    """A line an ending, then a line a searcher: mean gains and their standard errors."""
    lines = [
        "| search | seed | ends with | best dev seen | dev | vs default | hidden | vs default |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for end in endings:
        dev, hidden = end.gains
        lines.append(
            f"| {end.searcher} | {end.seed} | {words(end.recipe)} | {end.promised:.3f} | "
            f"{end.dev:.3f} | {dev:+.3f} | {end.hidden:.3f} | {hidden:+.3f} |"
        )
    lines += ["", "| search | searches | dev vs default | hidden vs default |", "|---|---|---|---|"]
    for name in dict.fromkeys(end.searcher for end in endings):
        own = [end.gains for end in endings if end.searcher == name]
        cells = [spread([gains[index] for gains in own]) for index in (0, 1)]
        lines.append(f"| {name} | {len(own)} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean and standard error."""
    mean = f"{statistics.mean(values):+.4f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {statistics.stdev(values) / len(values) ** 0.5:.4f}"


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Searchers on the real tiny substrate.")
    parser.add_argument("--searches", nargs="*", default=["greedy", "random"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one search each")
    parser.add_argument("--campaigns", type=Path, nargs="*", default=[], help="finished ones")
    parser.add_argument("--runs", type=int, default=36, help="training runs a search may spend")
    parser.add_argument("--fresh", type=int, default=3, help="runs that judge what it ends with")
    parser.add_argument("--work", type=Path, help="keeps finished runs")
    parser.add_argument("--out", type=Path, help="also write the table here")
    args = parser.parse_args()
    work = args.work or Path(tempfile.mkdtemp(prefix="search-"))
    work.mkdir(parents=True, exist_ok=True)
    space = space_of(load(STACK / "axes.yaml"))
    endings = []
    try:
        for root in args.campaigns:
            endings += campaign(root, space, work, args.fresh)
    except AevoError as error:
        parser.error(str(error))
    for seed in args.seeds if args.searches else []:
        trainer = Trainer(space, work, items_seed=seed)
        try:
            endings += [play(name, seed, trainer, args.runs, args.fresh) for name in args.searches]
        except ConfigError as error:
            parser.error(str(error))
        print(f"{trainer.trained} runs trained for seed {seed}", file=sys.stderr, flush=True)
    text = table(endings)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
