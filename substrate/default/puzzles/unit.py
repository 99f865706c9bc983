"""Unit conversion, easy form: multiplication by a secret whole factor."""

from __future__ import annotations

import random
from typing import Any

from puzzles import text
from puzzles.puzzle import Puzzle


def generate(rng: random.Random, knobs: dict[str, Any]) -> Puzzle:
    """A puzzle with a secret factor."""
    factor = rng.randint(*knobs["factor"])
    values = rng.sample(range(knobs["x"][0], knobs["x"][1] + 1), knobs["examples"] + 1)
    pairs = [(str(x), str(x * factor)) for x in values]
    examples, (query, answer) = pairs[:-1], pairs[-1]
    meta = {"factor": factor, "x": values[-1], "examples": examples, "query": query}
    return Puzzle("unit", text.prompt("unit", examples, query), answer, meta,
                  difficulty=factor * values[-1] / (knobs["factor"][1] * knobs["x"][1]))


def solve(prompt: str, knobs: dict[str, Any]) -> str | None:
    """The factor from the examples, times the query; None if they contradict each other."""
    examples, query = text.parse(prompt)
    factors = {int(y) / int(x) for x, y in examples}
    if len(factors) != 1 or not (factor := factors.pop()).is_integer():
        return None
    return str(int(factor) * int(query))
