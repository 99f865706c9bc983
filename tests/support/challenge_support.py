"""A stand-in for the competition's train.csv: its columns and prompts, rows of our generator."""

import csv
import importlib
import random
import sys
from pathlib import Path
from typing import Any

from tests.conftest import REPO

SUBSTRATE = REPO / "substrate" / "default"
if str(SUBSTRATE) not in sys.path:
    sys.path.insert(0, str(SUBSTRATE))

# Rows by kind in the competition's file.
COMPETITION = {
    "bits": 1602,
    "gravity": 1597,
    "unit": 1594,
    "cipher": 1576,
    "numeral": 1576,
    "numeric_deduce": 596,
    "numeric_guess": 136,
    "symbolic_deduce": 659,
    "symbolic_guess": 164,
}
Row = tuple[str, str, str]


def rows(counts: dict[str, int], seed: int = 1) -> list[Row]:
    """`id, prompt, answer` of generated puzzles, shuffled; every prompt once."""
    puzzles = importlib.import_module("puzzles")
    preset, rng = puzzles.load_preset("challenge"), random.Random(seed)
    found: dict[str, str] = {}
    for kind, count in counts.items():
        form, _, guess = kind.partition("_")
        knobs: dict[str, Any] = {"form": form, "guess": float(guess == "guess")} if guess else {}
        wanted = len(found) + count
        while len(found) < wanted:
            puzzle = puzzles.generate(preset, "equation" if guess else kind, rng, **knobs)
            found.setdefault(puzzle.prompt, puzzle.answer)
    shuffled = list(found.items())
    rng.shuffle(shuffled)
    return [(f"{rng.getrandbits(32):08x}", prompt, answer) for prompt, answer in shuffled]


def small(n: int = 20) -> dict[str, int]:
    """n rows of every kind."""
    return dict.fromkeys(COMPETITION, n)


def write_csv(path: Path, content: list[Row]) -> Path:
    """The file as the competition has it."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "prompt", "answer"])
        writer.writerows(content)
    return path
