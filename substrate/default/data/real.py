"""Real rows: the competition's own training rows, mixed with the generator's.

They are there only in a campaign whose user gave the competition's train.csv (docs/challenge.md),
as `--real DIR/train.jsonl`, split off by the trusted side: dev and hidden are not among them. A row
that the solvers solved carries its rule in `meta`, so that a trace can be written for it.

Knobs, all optional, in recipe.yaml below `data` (defaults: REAL in data/recipe.py):

    real:
      share: 0.5          # of each domain's rows in the mixture
      domains: {}         # other shares, by domain
      repeat: 1           # times that a row may be used to reach its share; 2 and more over-sample
      unsolved: answer    # answer: a row without a rule is trained on its answer alone | drop
      skip: []            # sub-domains to leave out, e.g. [equation_symbolic_guess]

The generator fills what the real rows leave of a domain's share of `data.examples`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.files import read_rows
from eval.metric import extract, verify
from puzzles import DOMAINS, Preset, Puzzle

from data.filters import keep
from data.mixture import counts
from data.recipe import REAL
from data.traces import completion

FIELDS = {"domain", "prompt", "answer", "difficulty", "solved", "meta"}


class RealRowsError(ValueError):
    """The file of real rows is not one; one line."""


@dataclass(frozen=True)
class Real:
    """The real rows of a training set, and what was left out of it."""

    puzzles: list[Puzzle]
    dropped: dict[str, int]

    @property
    def domains(self) -> dict[str, int]:
        """Rows by domain."""
        return {name: sum(puzzle.domain == name for puzzle in self.puzzles) for name in DOMAINS}


def load(path: Path) -> list[Puzzle]:
    """The rows of a file that eval.split wrote. `meta` tells `real` and `solved`.

    Raises:
        RealRowsError: missing, empty, or a row lacks a field.
    """
    return [_puzzle(row) for row in read_rows(path, FIELDS, RealRowsError)]


def _puzzle(row: dict[str, Any]) -> Puzzle:
    meta = row["meta"] | {"real": True, "solved": row["solved"],
                          "examples": [(x, y) for x, y in row["meta"]["examples"]]}
    return Puzzle(row["domain"], row["prompt"], row["answer"], meta, row["difficulty"])


def settings_of(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe's `data.real` with the defaults of what it does not say."""
    return REAL | (recipe["data"].get("real") or {})


def choose(rows: Sequence[Puzzle], recipe: dict[str, Any], preset: Preset, seed: int) -> Real:
    """The real rows of a training set: filtered like all others, drawn by the seed, repeated only
    where a share asks for more than there are."""
    data, settings = recipe["data"], settings_of(recipe)
    usable = [puzzle for puzzle in rows if puzzle.meta["subdomain"] not in settings["skip"]]
    dropped = {"skip": len(rows) - len(usable)}
    if settings["unsolved"] == "drop":
        solved = [puzzle for puzzle in usable if puzzle.meta["solved"]]
        dropped["unsolved"] = len(usable) - len(solved)
        usable = solved
    usable, filtered = keep(usable, data["filter"], preset)
    rng = random.Random(f"real:{seed}")
    chosen: list[Puzzle] = []
    for domain, count in counts(data["examples"], data["mixture"]).items():
        pool = [puzzle for puzzle in usable if puzzle.domain == domain]
        rng.shuffle(pool)
        wanted = round(count * settings["domains"].get(domain, settings["share"]))
        chosen += (pool * settings["repeat"])[:wanted]
    return Real(chosen, {name: n for name, n in (dropped | filtered).items() if n})


def written(puzzle: Puzzle, style: str) -> tuple[str, str]:
    """Completion and its style: of a row that no rule is known for, or whose trace would not end in
    its very answer, the answer alone."""
    if style != "none" and puzzle.meta["solved"]:
        text = completion(puzzle, style)
        given = extract(text)
        if given == puzzle.answer and verify(puzzle.answer, given):
            return text, style
    return completion(puzzle, "none"), "none"
