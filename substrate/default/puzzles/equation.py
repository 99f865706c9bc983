"""Equation transformation: symbols stand for secret operations.

Knob `form`: `symbol` is the easy form (one symbol, one operation on small numbers); `numeric` is
the challenge's `dd op dd` with one to three operators, each an operation in plain or reversed
mode; `symbolic` the same with digits replaced by symbols; `mixed` draws both.
Knob `operators` (narrow | broad) bounds the operations of every form.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from puzzles import cryptarithm, decipher, text
from puzzles.puzzle import Puzzle, how_many

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
    """The easy form's operations that the knob `operators` admits."""
    return {"narrow": NARROW, "broad": BROAD}[knobs["operators"]]


def generate(rng: random.Random, knobs: dict[str, Any]) -> Puzzle:
    """A puzzle; in the easy form its examples leave one answer to the query."""
    if knobs["form"] != "symbol":
        return cryptarithm.generate(rng, knobs)
    allowed, (low, high) = operators(knobs), knobs["operand"]
    while True:
        name, symbol = rng.choice(allowed), rng.choice(SYMBOLS)
        count = how_many(rng, knobs["examples"])
        operands: set[tuple[int, int]] = set()
        while len(operands) < count + 1:
            operands.add((rng.randint(low, high), rng.randint(low, high)))
        ordered = sorted(operands)
        rng.shuffle(ordered)
        pairs = [(f"{a}{symbol}{b}", str(OPERATORS[name](a, b))) for a, b in ordered]
        examples, (query, answer) = pairs[:-1], pairs[-1]
        if len(_answers(examples, query)) == 1:
            break
    meta = {"rule": name, "symbol": symbol, "examples": examples, "query": query,
            "operands": ordered[-1]}
    return Puzzle("equation", text.prompt("equation", examples, query, knobs["style"]), answer,
                  meta, difficulty=BROAD.index(name) / len(BROAD))


def solve(prompt: str, knobs: dict[str, Any]) -> str | None:
    """Enumerates the operations that fit the examples; None unless they agree on the answer."""
    examples, query = text.parse(prompt, "equation")
    if knobs["form"] != "symbol":
        return decipher.solve(examples, query)
    answers = _answers(examples, query)
    return answers.pop() if len(answers) == 1 else None


def _answers(examples: text.Pairs, query: str) -> set[str]:
    def value(name: str, expression: str) -> str:
        a, b = (int(part) for part in _split(expression))
        return str(OPERATORS[name](a, b))

    fitting = [n for n in BROAD if all(value(n, x) == y for x, y in examples)]
    return {value(name, query) for name in fitting}


def _split(expression: str) -> list[str]:
    symbol = next(character for character in expression if not character.isdigit())
    return expression.split(symbol)
