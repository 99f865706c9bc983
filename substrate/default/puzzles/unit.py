"""Unit conversion: multiplication by a secret factor.

Knob `decimals`: 0 is the easy form (whole numbers); 2 is the challenge's, inputs and outputs
rounded to two decimals, so that the factor must be estimated.
"""

from __future__ import annotations

import random
from typing import Any

from puzzles import text
from puzzles.puzzle import Puzzle, how_many


def generate(rng: random.Random, knobs: dict[str, Any]) -> Puzzle:
    """A puzzle with a secret factor."""
    count, (low, high) = how_many(rng, knobs["examples"]), knobs["x"]
    values: list[float]
    if knobs["decimals"] == 0:
        factor = float(rng.randint(*knobs["factor"]))
        values = [float(x) for x in rng.sample(range(low, high + 1), count + 1)]
        pairs = [(f"{x:.0f}", f"{x * factor:.0f}") for x in values]
    else:
        factor = rng.uniform(*knobs["factor"])
        values = [round(rng.uniform(low, high), 2) for _ in range(count + 1)]
        pairs = [(str(x), f"{x * factor:.2f}") for x in values]
    examples, (query, answer) = pairs[:-1], pairs[-1]
    meta = {"factor": factor, "x": values[-1], "examples": examples, "query": query,
            "decimals": knobs["decimals"]}
    return Puzzle("unit", text.prompt("unit", examples, query, knobs["style"]), answer, meta,
                  difficulty=factor * values[-1] / (knobs["factor"][1] * high))


def solve(prompt: str, knobs: dict[str, Any]) -> str | None:
    """The factor from the examples, times the query; None if they contradict each other."""
    examples, query = text.parse(prompt, "unit")
    if knobs["decimals"] == 0:
        factors = {int(y) / int(x) for x, y in examples}
        if len(factors) != 1 or not (factor := factors.pop()).is_integer():
            return None
        return str(int(factor) * int(query))
    found = explain(examples, query)
    return found[0] if found else None


def explain(examples: text.Pairs, query: str) -> tuple[str, dict[str, Any]] | None:
    """Answer and rule of the challenge's form, blind: the factor from the middle of what the
    examples leave open; None if they contradict each other."""
    interval = factor_interval(examples)
    if interval is None:
        return None
    factor, x = sum(interval) / 2, float(query)
    return f"{factor * x:.2f}", {"factor": factor, "x": x, "decimals": 2}


def factor_interval(examples: text.Pairs) -> tuple[float, float] | None:
    """Where the factor must lie for every rounded output to hold; None if nowhere."""
    low = max((float(y) - 0.005) / float(x) for x, y in examples)
    high = min((float(y) + 0.005) / float(x) for x, y in examples)
    return (low, high) if low <= high + 1e-12 else None
