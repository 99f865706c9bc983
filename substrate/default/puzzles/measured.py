"""Gravity and unit conversion: a secret constant times a power of a measured value.

Gravity is d = g/2 * t * t with a secret g, unit conversion y = factor * x. Knob `decimals`: 0 is
the easy form (whole numbers, exact); 2 is the challenge's, all values rounded to two decimals, so
that the constant must be estimated.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from puzzles import text
from puzzles.puzzle import Puzzle, how_many

HALF_UNIT = 0.005  # how far a value may lie from what it was rounded to


@dataclass(frozen=True)
class Law:
    """One domain of this kind.

    Attributes:
        constant, variable: their names among the knobs (ranges) and in `meta` (values).
        written: a result as the challenge prints it.
    """

    domain: str
    constant: str
    variable: str
    power: int
    written: Callable[[float], str]

    def at(self, constant: float, x: float) -> float:
        """What a value of `x` gives."""
        return constant * x**self.power

    def generate(self, rng: random.Random, knobs: dict[str, Any]) -> Puzzle:
        """A puzzle with a secret constant."""
        constant, values, pairs = self._draw(rng, knobs)
        examples, (query, answer) = pairs[:-1], pairs[-1]
        meta = {self.constant: constant, self.variable: values[-1], "examples": examples,
                "query": query, "decimals": knobs["decimals"]}
        most = self.at(knobs[self.constant][1], knobs[self.variable][1])
        return Puzzle(self.domain, text.prompt(self.domain, examples, query, knobs["style"]),
                      answer, meta, difficulty=self.at(constant, values[-1]) / most)

    def _draw(
        self, rng: random.Random, knobs: dict[str, Any]
    ) -> tuple[float, list[float], text.Pairs]:
        """Constant, values, and both sides of each as they are printed; the last is the query."""
        count, (low, high) = how_many(rng, knobs["examples"]) + 1, knobs[self.variable]
        if knobs["decimals"] == 0:
            constant = float(rng.randint(*knobs[self.constant]))
            values = [float(x) for x in rng.sample(range(low, high + 1), count)]
            return constant, values, [
                (f"{x:.0f}", f"{self.at(constant, x):.0f}") for x in values]
        constant = rng.uniform(*knobs[self.constant])
        values = [round(rng.uniform(low, high), 2) for _ in range(count)]
        return constant, values, [
            (str(x), self.written(self._product(constant, x))) for x in values]

    def _product(self, constant: float, x: float) -> float:
        """`at`, multiplied in the order that drawn puzzles have always had: the last bit of an
        answer, and so its rounding, could differ."""
        return math.prod((x,) * self.power, start=constant)

    def another(self, meta: dict[str, Any], knobs: dict[str, Any],
                rng: random.Random) -> tuple[str, str, dict[str, Any]]:
        """A new value under the law of a puzzle's `meta`: input, output, the fields of `meta` that
        change with it."""
        if meta["decimals"] == 0:
            x = rng.randint(*knobs[self.variable])
            return str(x), f"{self.at(meta[self.constant], x):.0f}", {self.variable: float(x)}
        value = round(rng.uniform(*knobs[self.variable]), 2)
        return str(value), self.written(self.at(meta[self.constant], value)), {
            self.variable: value}

    def solve(self, prompt: str, knobs: dict[str, Any]) -> str | None:
        """The constant from the examples, then the answer; None if the examples contradict each
        other."""
        examples, query = text.parse(prompt, self.domain)
        if knobs["decimals"] == 0:
            constants = {int(y) / int(x) ** self.power for x, y in examples}
            if len(constants) != 1 or not (constant := constants.pop()).is_integer():
                return None
            return str(int(constant) * int(query) ** self.power)
        found = self.explain(examples, query)
        return found[0] if found else None

    def explain(self, examples: text.Pairs, query: str) -> tuple[str, dict[str, Any]] | None:
        """Answer and rule of the challenge's form, blind: the constant from the middle of what the
        examples leave open; None if they contradict each other."""
        interval = self.interval(examples)
        if interval is None:
            return None
        constant, x = sum(interval) / 2, float(query)
        return self.written(self.at(constant, x)), {
            self.constant: constant, self.variable: x, "decimals": 2}

    def interval(self, examples: text.Pairs) -> tuple[float, float] | None:
        """Where the constant must lie for every rounded result to hold; None if nowhere."""
        low = max((float(y) - HALF_UNIT) / float(x) ** self.power for x, y in examples)
        high = min((float(y) + HALF_UNIT) / float(x) ** self.power for x, y in examples)
        return (low, high) if low <= high + 1e-12 else None


GRAVITY = Law("gravity", "half_g", "t", 2, lambda d: str(round(d, 2)))
UNIT = Law("unit", "factor", "x", 1, lambda y: f"{y:.2f}")
