"""Bit manipulation, easy form: one unary operation on a bit string."""

from __future__ import annotations

import random
from typing import Any

from puzzles import text
from puzzles.puzzle import Puzzle

OPERATIONS: tuple[tuple[str, str], ...] = (
    ("NOT", ""), ("REV", ""), ("ROL", "1"), ("ROL", "4"), ("ROR", "1"),
    ("XOR", "00001111"), ("XOR", "11110000"), ("XOR", "10101010"),
)


def apply(operation: tuple[str, str], bits: str) -> str:
    """The operation on one bit string; XOR masks are cut to its width."""
    name, argument = operation
    if name == "NOT":
        return bits.translate(str.maketrans("01", "10"))
    if name == "REV":
        return bits[::-1]
    if name == "XOR":
        return "".join(str(int(a != b)) for a, b in zip(bits, argument, strict=False))
    shift = int(argument) if name == "ROL" else -int(argument)
    return bits[shift:] + bits[:shift]


def generate(rng: random.Random, knobs: dict[str, Any]) -> Puzzle:
    """A puzzle whose examples leave one operation only."""
    while True:
        operation = rng.choice(OPERATIONS)
        values = rng.sample(range(1, 2 ** knobs["width"] - 1), knobs["examples"] + 1)
        pairs = [(x := format(v, f"0{knobs['width']}b"), apply(operation, x)) for v in values]
        examples, (query, answer) = pairs[:-1], pairs[-1]
        if len(_candidates(examples)) == 1:
            break
    meta = {"rule": " ".join(operation).strip(), "examples": examples, "query": query}
    return Puzzle("bits", text.prompt("bits", examples, query), answer, meta,
                  difficulty=OPERATIONS.index(operation) / len(OPERATIONS))


def solve(prompt: str, knobs: dict[str, Any]) -> str | None:
    """The answer from the prompt alone; None if the examples do not leave one."""
    examples, query = text.parse(prompt)
    answers = {apply(operation, query) for operation in _candidates(examples)}
    return answers.pop() if len(answers) == 1 else None


def _candidates(examples: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [op for op in OPERATIONS if all(apply(op, x) == y for x, y in examples)]
