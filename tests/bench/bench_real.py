"""Real campaigns on the tiny model: what aevo ships against other choices, on fresh seeds.

    python tests/bench/bench_real.py play --work DIR [--shifted 21 22 23 24 25] [--plain 26 27 28]
    python tests/bench/bench_real.py table --work DIR [the same]

`play` runs what DIR lacks and may be killed and started again: a campaign of four rounds of every
seed (with the leaderboard's shift, or without it), then its judging. Both are *run*: what aevo
ships, what it stands by, and the choices of others are trained anew on `--fresh` seeds that no
round saw, and scored on the campaign's hidden items beside the default recipe.

*Replayed* from the campaign's own records, so at equal runs to the last one, are others' choices
among the candidates that it trained: `greedy` takes the one of best dev, `greedy_board` the one of
best leaderboard score, `random` one of them by lot. They profit from what aevo chose to try; what
they would have tried themselves is run with --searches, which spends as many runs on each
(`bench_search`). A campaign takes about 10 CPU minutes, its judging 2, a search 6.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from aevo import release
from aevo.files.documents import read, write_text
from aevo.files.paths import Layout
from aevo.policy import document as policies
from aevo.policy import trials
from aevo.records.change import Change
from aevo.records.evidence import Evidence
from aevo.studies.simulation.campaign import recipe_of
from aevo.studies.simulation.space import Recipe, Space, space_of
from aevo.substrate.catalogue import load
from tests.bench import bench_search as real

ROUNDS = 4


@dataclass(frozen=True)
class Trained:
    """A candidate of a campaign: what it was trained with, and what it scored."""

    round: int
    candidate: str
    recipe: Recipe
    select: Change | None
    dev: float
    lb: float | None


def name_of(seed: int, shifted: bool) -> str:
    """A campaign's folder."""
    return f"{'shifted' if shifted else 'plain'}-{seed}"


def campaign(work: Path, seed: int, shifted: bool) -> Layout:
    """The campaign of a seed, played to its end; goes on where it was.

    Raises:
        CalledProcessError: it failed; what it said stands above.
    """
    layout = Layout(work / "runs" / name_of(seed, shifted))
    if not layout.policy(ROUNDS + 1).exists():
        words = [f"seed={seed}", f"model.items_seed={seed}", f"rounds={ROUNDS}"]
        words += [f"campaign={name_of(seed, shifted)}", f"runs={work / 'runs'}"]
        words += [] if shifted else ["leaderboard.shift=false"]
        subprocess.run(
            [sys.executable, "-m", "aevo.campaign", *words],
            check=True,
            cwd=real.REPO,
            stdout=sys.stderr,
        )
    return layout


def candidates(layout: Layout) -> Iterator[Trained]:
    """Every scored candidate of a finished campaign."""
    for number in range(1, ROUNDS + 1):
        policy, after = policies.read(layout, number), policies.read(layout, number + 1)
        for item in read(Evidence, layout.round(number).evidence).candidates:
            if item.status != "ok" or item.dev is None:
                continue
            own = trials.moves_of(after.tried, number, item.candidate)
            recipe = (*recipe_of(policy), *((ref.axis, ref.move) for ref in own))
            select = real.selecting(policy)
            yield Trained(number, item.candidate, recipe, select, item.dev, item.lb)


def choices(layout: Layout, seed: int) -> dict[str, tuple[Recipe, Change | None]]:
    """What each method ends with; all but aevo's by replay."""
    found = list(candidates(layout))
    best = release.read_options(layout)[0]
    shipped = next(
        one for one in found if (one.round, one.candidate) == (best.round, best.candidate)
    )
    last = policies.read(layout, ROUNDS + 1)
    greedy = max(found, key=lambda one: one.dev)
    board = max(found, key=lambda one: (-1.0 if one.lb is None else one.lb, one.dev))
    lot = random.Random(f"lot:{seed}").choice(found)
    return {
        "aevo, to ship": (shipped.recipe, shipped.select),
        "aevo, stands": (recipe_of(last), real.selecting(last)),
        "greedy, replayed": (greedy.recipe, greedy.select),
        "greedy_board, replayed": (board.recipe, board.select),
        "random, replayed": (lot.recipe, lot.select),
    }


def play(args: argparse.Namespace, space: Space, seed: int, shifted: bool) -> None:
    """Plays and judges one campaign, as far as that is not done."""
    layout = campaign(args.work, seed, shifted)
    kept = args.work / "fresh"
    kept.mkdir(parents=True, exist_ok=True)
    trainer = real.Trainer(space, kept, seed, hidden="hidden" if shifted else "hidden_unshifted")
    rows = []
    for method, (recipe, select) in choices(layout, seed).items():
        rows.append(real.judged(method, seed, recipe, 0.0, trainer, args.fresh, select))
    for method in args.searches:
        rows.append(real.play(method, seed, trainer, 36, args.fresh))
    path = args.work / f"{name_of(seed, shifted)}.json"
    write_text(path, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print(f"{name_of(seed, shifted)} is judged", file=sys.stderr, flush=True)


def table(args: argparse.Namespace) -> str:
    """What there is, as Markdown: gains over the default recipe on the same seeds and items."""
    lines = []
    for shifted, seeds in ((True, args.shifted), (False, args.plain)):
        paths = [args.work / f"{name_of(seed, shifted)}.json" for seed in seeds]
        found = [row for path in paths if path.exists() for row in json.loads(path.read_text())]
        if not found:
            continue
        title = "With the shift" if shifted else "Without the shift"
        lines += [
            f"{title}:",
            "",
            "| choice | seed | ends with | dev | hidden |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['searcher']} | {row['seed']} | {real.words(tuple(map(tuple, row['recipe'])))} "
            f"| {gain(row, 'dev'):+.3f} | {gain(row, 'hidden'):+.3f} |"
            for row in found
        ]
        lines += [
            "",
            "| choice | campaigns | hidden | aevo, to ship, less it |",
            "|---|---|---|---|",
        ]
        ours = {
            row["seed"]: gain(row, "hidden") for row in found if row["searcher"] == "aevo, to ship"
        }
        for method in dict.fromkeys(row["searcher"] for row in found):
            own = {r["seed"]: gain(r, "hidden") for r in found if r["searcher"] == method}
            less = [ours[seed] - value for seed, value in own.items()]
            cells = f"{real.spread(list(own.values()))} | {real.spread(less)}"
            lines.append(f"| {method} | {len(own)} | {cells} |")
        lines.append("")
    return "\n".join(lines)


def gain(row: dict[str, Any], split: str) -> float:
    """Over the default recipe."""
    return float(row[split] - row[f"default_{split}"])


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["play", "table"])
    parser.add_argument("--work", type=Path, required=True, help="keeps campaigns and runs")
    parser.add_argument("--shifted", type=int, nargs="*", default=[21, 22, 23, 24, 25])
    parser.add_argument("--plain", type=int, nargs="*", default=[26, 27, 28])
    parser.add_argument("--fresh", type=int, default=3, help="seeds that judge a recipe")
    parser.add_argument("--searches", nargs="*", default=[], help="others to run in full")
    args = parser.parse_args()
    args.work = args.work.resolve()
    if args.what == "play":
        space = space_of(load(real.STACK / "axes.yaml"))
        for shifted, seeds in ((True, args.shifted), (False, args.plain)):
            for seed in seeds:
                if not (args.work / f"{name_of(seed, shifted)}.json").exists():
                    play(args, space, seed, shifted)
    print(table(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
