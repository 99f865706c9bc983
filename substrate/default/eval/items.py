"""Draws an evaluation set.

    ITEMS_SEED=1 python -m eval.items --preset tiny --split dev --n 720 --out dev.jsonl

Splits: `dev`; `hidden`, from the shifted distribution in `hidden.yaml`; and `hidden_unshifted`,
hidden prompts from dev's own distribution, to see what the shift does. Both files are sealed
(substrate.yaml). The seed may be a secret, so it comes in a variable: the command line of a process
is shown to every user of the machine, its environment to its own user alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from puzzles import DOMAINS, Preset, PresetError, draw, load_preset

from eval.files import write

SPLITS = ("dev", "hidden", "hidden_unshifted")
SEED = "ITEMS_SEED"


@dataclass(frozen=True)
class Distribution:
    """What a set is drawn from: shares of the domains, and changes of the preset's knobs."""

    mixture: dict[str, float]
    knobs: dict[str, dict[str, Any]]


def distribution(preset: Preset, split: str) -> Distribution:
    """The distribution of a split: the preset's own, or the sealed one of `hidden`."""
    if split != "hidden":
        return Distribution(preset.dev_mixture, {})
    shifted = yaml.safe_load((Path(__file__).parent / "hidden.yaml").read_text())
    return Distribution(**shifted[preset.name])


def shares(mixture: dict[str, float], n: int) -> dict[str, int]:
    """Items per domain in a mixture, summing to n."""
    total = sum(mixture.values())
    counts = {domain: int(n * mixture[domain] / total) for domain in DOMAINS}
    by_rest = sorted(DOMAINS, key=lambda d: counts[d] - n * mixture[d] / total)
    for domain in by_rest[: n - sum(counts.values())]:
        counts[domain] += 1
    return counts


def items(preset: Preset, split: str, n: int, seed: int) -> list[dict[str, Any]]:
    """The rows of an evaluation set: id, domain, prompt, answer, meta."""
    bucket = "dev" if split == "dev" else "hidden"
    drawn = distribution(preset, split)
    rows = []
    for domain, count in shares(drawn.mixture, n).items():
        for puzzle in draw(preset, domain, count, seed, bucket, **drawn.knobs.get(domain, {})):
            rows.append({"id": puzzle.id, "domain": domain, "prompt": puzzle.prompt,
                         "answer": puzzle.answer, "meta": puzzle.meta})
    return rows


def given_seed() -> int:
    """The seed in the environment; ends the command where there is none."""
    seed = os.environ.get(SEED, "")
    if not seed.isdecimal():
        print(f"error: the variable {SEED} holds no seed; set it to an integer", file=sys.stderr)
        sys.exit(2)
    return int(seed)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--split", choices=SPLITS, required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    seed = given_seed()
    try:
        rows = items(load_preset(given.preset), given.split, given.n, seed)
    except PresetError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write(given.out, "".join(json.dumps(row) + "\n" for row in rows), 0o600)
    print(f"{len(rows)} items of {given.split}")


if __name__ == "__main__":
    main()
