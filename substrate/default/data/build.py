"""Builds a training set from a recipe.

    python -m data.build --recipe recipe.yaml --preset tiny --seed 7 --out DIR
    python -m data.build --recipe recipe.yaml --preset challenge --seed 7 --out DIR --real TRAIN

`--real` are rows of the competition's own (data/real.py) to mix with the generator's. Writes
DIR/train.jsonl (rows: id, domain, prompt, completion, answer, weight, difficulty, source), then
DIR/data.json, its summary. The same recipe, preset, seed and code give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from eval.files import write
from puzzles import Preset, PresetError, Puzzle, load_preset, text

from data import real
from data.augment import augment
from data.filters import keep, ranks
from data.mixture import sample
from data.recipe import RecipeError, load_recipe
from data.traces import completion


def build(
    recipe: dict[str, Any], preset: Preset, seed: int, given: real.Real | None = None
) -> tuple[list[dict[str, Any]], Any]:
    """The rows of a training set in order, and what each filter dropped of the generator's.

    Args:
        given: real rows to mix in, as `real.choose` gives them.
    """
    settings, weights = recipe["data"], recipe["train"]["loss"]["domain_weights"]
    rng = random.Random(f"build:{seed}")
    drawn = sample(preset, settings, seed, given.domains if given else None)
    puzzles = augment(drawn, settings["augment"], preset, rng)
    kept, dropped = keep(puzzles, settings["filter"], preset)
    kept += given.puzzles if given else []
    rng.shuffle(kept)
    if settings["order"] == "easy_first":
        # By rank, so that every domain goes from easy to hard all along the run.
        order = sorted(zip(ranks(kept), range(len(kept)), strict=True))
        kept = [kept[index] for _, index in order]
    rows = [row(puzzle, style_of(puzzle, settings["trace"], rng), weights) for puzzle in kept]
    return rows, dropped


def style_of(puzzle: Puzzle, trace: dict[str, Any], rng: random.Random) -> str:
    """The trace style of one row: the domain's own or the common one, for its fraction of rows."""
    style = trace["domains"].get(puzzle.domain, trace["style"])
    return style if rng.random() < trace["fraction"] else "none"


def row(puzzle: Puzzle, style: str, weights: dict[str, float]) -> dict[str, Any]:
    """One line of train.jsonl."""
    source = "generator"
    if puzzle.meta.get("real"):
        source, (written, style) = "real", real.written(puzzle, style)
    else:
        written = completion(puzzle, style)
    return {
        "id": puzzle.id, "domain": puzzle.domain, "prompt": text.asked(puzzle.prompt),
        "completion": written, "answer": puzzle.answer,
        "weight": float(weights.get(puzzle.domain, 1.0)), "difficulty": puzzle.difficulty,
        "source": f"{source}:{style}",
    }


def main() -> None:
    """The command line; a mistake in the recipe is one line and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--real", type=Path, help="real rows, as eval.split writes them")
    given = parser.parse_args()
    try:
        recipe, preset, chosen = load_recipe(given.recipe), load_preset(given.preset), None
        if given.real is not None:
            chosen = real.choose(real.load(given.real), recipe, preset, given.seed)
        rows, dropped = build(recipe, preset, given.seed, chosen)
    except (RecipeError, PresetError, real.RealRowsError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if not rows:
        print(f"error: {given.recipe}: the filters left no row ({dropped})", file=sys.stderr)
        sys.exit(2)
    lines = "".join(json.dumps(item) + "\n" for item in rows)
    summary = {
        "rows": len(rows), "domains": dict(sorted(Counter(r["domain"] for r in rows).items())),
        "dropped": dropped, "seed": given.seed, "preset": given.preset,
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
    }
    if chosen is not None:
        summary |= {"sources": dict(sorted(Counter(r["source"] for r in rows).items())),
                    "real_domains": chosen.domains, "real_dropped": chosen.dropped}
    given.out.mkdir(parents=True, exist_ok=True)
    write(given.out / "train.jsonl", lines)
    write(given.out / "data.json", json.dumps(summary, indent=2) + "\n")
    print(f"{len(rows)} rows, {summary['domains']}, dropped {dropped}"
          + (f", real {chosen.domains}, of these left out {chosen.dropped}" if chosen else ""))


if __name__ == "__main__":
    main()
