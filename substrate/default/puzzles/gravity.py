"""Gravity, easy form: d = h * t * t with whole numbers, h being half of g."""

from __future__ import annotations

import random
from typing import Any

from puzzles import text
from puzzles.puzzle import Puzzle


def generate(rng: random.Random, knobs: dict[str, Any]) -> Puzzle:
    """A puzzle with a secret h."""
    h = rng.randint(*knobs["half_g"])
    times = rng.sample(range(knobs["t"][0], knobs["t"][1] + 1), knobs["examples"] + 1)
    pairs = [(str(t), str(h * t * t)) for t in times]
    examples, (query, answer) = pairs[:-1], pairs[-1]
    meta = {"h": h, "t": times[-1], "examples": examples, "query": query}
    return Puzzle("gravity", text.prompt("gravity", examples, query), answer, meta,
                  difficulty=min(1.0, int(answer) / 1600))


def solve(prompt: str, knobs: dict[str, Any]) -> str | None:
    """h from the first example, then h t t; None if the examples contradict each other."""
    examples, query = text.parse(prompt)
    halves = {int(d) / int(t) ** 2 for t, d in examples}
    if len(halves) != 1 or not (h := halves.pop()).is_integer():
        return None
    return str(int(h) * int(query) ** 2)
