"""Equation transformation, easy form: a symbol stands for a secret operation on two numbers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from puzzles import text
from puzzles.puzzle import Puzzle

SYMBOLS = "@#%&$~^!?"
OPERATORS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: abs(a - b),
    "max": max,
    "cat": lambda a, b: int(f"{a}{b}"),
    "mul": lambda a, b: a * b,
    "tac": lambda a, b: int(f"{b}{a}"),
    "min": min,
    "mul1": lambda a, b: a * b + 1,
}
NARROW = ("add", "sub", "max", "cat")
BROAD = tuple(OPERATORS)


def operators(knobs: dict[str, Any]) -> tuple[str, ...]:
    """The operators that the knob `operators` admits."""
    return {"narrow": NARROW, "broad": BROAD}[knobs["operators"]]


def generate(rng: random.Random, knobs: dict[str, Any]) -> Puzzle:
    """A puzzle whose examples leave one answer to the query."""
    allowed = operators(knobs)
    low, high = knobs["operand"]
    while True:
        name, symbol = rng.choice(allowed), rng.choice(SYMBOLS)
        operands: set[tuple[int, int]] = set()
        while len(operands) < knobs["examples"] + 1:
            operands.add((rng.randint(low, high), rng.randint(low, high)))
        ordered = sorted(operands)
        rng.shuffle(ordered)
        pairs = [(f"{a}{symbol}{b}", str(OPERATORS[name](a, b))) for a, b in ordered]
        examples, (query, answer) = pairs[:-1], pairs[-1]
        if len(_answers(examples, query, BROAD)) == 1:
            break
    meta = {"rule": name, "symbol": symbol, "examples": examples, "query": query,
            "operands": ordered[-1]}
    return Puzzle("equation", text.prompt("equation", examples, query), answer, meta,
                  difficulty=BROAD.index(name) / len(BROAD))


def solve(prompt: str, knobs: dict[str, Any]) -> str | None:
    """Enumerates the operations that fit the examples; None unless they agree on the answer."""
    examples, query = text.parse(prompt)
    answers = _answers(examples, query, BROAD)
    return answers.pop() if len(answers) == 1 else None


def _answers(examples: list[tuple[str, str]], query: str, names: tuple[str, ...]) -> set[str]:
    def value(name: str, expression: str) -> str:
        a, b = (int(part) for part in _split(expression))
        return str(OPERATORS[name](a, b))

    fitting = [n for n in names if all(value(n, x) == y for x, y in examples)]
    return {value(name, query) for name in fitting}


def _split(expression: str) -> list[str]:
    symbol = next(character for character in expression if not character.isdigit())
    return expression.split(symbol)
