"""Gravity: d = g/2 * t * t with a secret g.

Knob `decimals`: 0 is the easy form (whole t, whole g/2, exact d); 2 is the challenge's, all values
rounded to two decimals, so that g must be estimated.
"""

from __future__ import annotations

import random
from typing import Any

from puzzles import text
from puzzles.puzzle import Puzzle, how_many


def generate(rng: random.Random, knobs: dict[str, Any]) -> Puzzle:
    """A puzzle with a secret g."""
    count, (low, high) = how_many(rng, knobs["examples"]), knobs["t"]
    times: list[float]
    if knobs["decimals"] == 0:
        half = float(rng.randint(*knobs["half_g"]))
        times = [float(t) for t in rng.sample(range(low, high + 1), count + 1)]
        pairs = [(f"{t:.0f}", f"{half * t * t:.0f}") for t in times]
    else:
        half = rng.uniform(*knobs["half_g"])
        times = [round(rng.uniform(low, high), 2) for _ in range(count + 1)]
        pairs = [(str(t), str(round(half * t * t, 2))) for t in times]
    examples, (query, answer) = pairs[:-1], pairs[-1]
    meta = {"half_g": half, "t": times[-1], "examples": examples, "query": query,
            "decimals": knobs["decimals"]}
    return Puzzle("gravity", text.prompt("gravity", examples, query, knobs["style"]), answer, meta,
                  difficulty=half * times[-1] ** 2 / (knobs["half_g"][1] * high**2))


def solve(prompt: str, knobs: dict[str, Any]) -> str | None:
    """g from the examples, then d; None if the examples contradict each other."""
    examples, query = text.parse(prompt, "gravity")
    if knobs["decimals"] == 0:
        halves = {int(d) / int(t) ** 2 for t, d in examples}
        if len(halves) != 1 or not (half := halves.pop()).is_integer():
            return None
        return str(int(half) * int(query) ** 2)
    found = explain(examples, query)
    return found[0] if found else None


def explain(examples: text.Pairs, query: str) -> tuple[str, dict[str, Any]] | None:
    """Answer and rule of the challenge's form, blind: g/2 from the middle of what the examples
    leave open; None if they contradict each other."""
    interval = half_g_interval(examples)
    if interval is None:
        return None
    half, t = sum(interval) / 2, float(query)
    return str(round(half * t**2, 2)), {"half_g": half, "t": t, "decimals": 2}


def half_g_interval(examples: text.Pairs) -> tuple[float, float] | None:
    """Where g/2 must lie for every rounded distance to hold; None if nowhere."""
    low = max((float(d) - 0.005) / float(t) ** 2 for t, d in examples)
    high = min((float(d) + 0.005) / float(t) ** 2 for t, d in examples)
    return (low, high) if low <= high + 1e-12 else None
