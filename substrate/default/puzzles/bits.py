"""Bit manipulation: a secret rule on bit strings.

Knob `rules`: `unary` is the easy form, one operation of a short list; `gates` is the challenge's, a
gate over one to three *streams*, each the input shifted, rotated or left alone, perhaps negated.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

from puzzles import text
from puzzles.puzzle import Puzzle, how_many

OPERATIONS: tuple[tuple[str, str], ...] = (
    ("NOT", ""), ("REV", ""), ("ROL", "1"), ("ROL", "4"), ("ROR", "1"),
    ("XOR", "00001111"), ("XOR", "11110000"), ("XOR", "10101010"),
)
# name -> (number of streams, function of their bits, share in the challenge's data in per cent)
GATES: dict[str, tuple[int, Callable[..., int], float]] = {
    "XOR": (2, lambda f, g: f ^ g, 36.0),
    "AND": (2, lambda f, g: f & g, 15.0),
    "MAJ": (3, lambda f, g, h: int(f + g + h > 1), 12.0),
    "ID": (1, lambda f: f, 10.0),
    "OR": (2, lambda f, g: f | g, 10.0),
    "XOR3": (3, lambda f, g, h: f ^ g ^ h, 9.0),
    "CH": (3, lambda f, g, h: g if f else h, 8.5),
}
STREAMS = tuple(
    [f"ROL {k}" for k in range(8)] + [f"SHL {k}" for k in range(1, 8)]
    + [f"SHR {k}" for k in range(1, 8)]
)


def apply(operation: tuple[str, str], bits: str) -> str:
    """A unary operation on one bit string; XOR masks are cut to its width."""
    name, argument = operation
    if name == "NOT":
        return bits.translate(str.maketrans("01", "10"))
    if name == "REV":
        return bits[::-1]
    if name == "XOR":
        return "".join(str(int(a != b)) for a, b in zip(bits, argument, strict=False))
    shift = int(argument) if name == "ROL" else -int(argument)
    return bits[shift:] + bits[:shift]


def stream(name: str, bits: str) -> str:
    """A stream such as `SHR 2` or `NOT ROL 3` of a bit string."""
    if name.startswith("NOT "):
        return apply(("NOT", ""), stream(name.removeprefix("NOT "), bits))
    kind, by = name.split()
    k = int(by)
    if kind == "ROL":
        return bits[k:] + bits[:k]
    return bits[k:] + "0" * k if kind == "SHL" else "0" * k + bits[: len(bits) - k]


def gate(name: str, streams: list[str], bits: str) -> str:
    """A gate over streams of a bit string; `TABLE 0110` is a gate by its truth table."""
    columns = zip(*(map(int, stream(item, bits)) for item in streams), strict=True)
    kind, _, table = name.partition(" ")
    if kind == "TABLE":
        return "".join(table[int("".join(map(str, column)), 2)] for column in columns)
    return "".join(str(GATES[name][1](*column)) for column in columns)


def generate(rng: random.Random, knobs: dict[str, Any]) -> Puzzle:
    """A puzzle whose examples leave one answer to the query."""
    while True:
        count = how_many(rng, knobs["examples"])
        values = rng.sample(range(1, 2 ** knobs["width"] - 1), count + 1)
        inputs = [format(value, f"0{knobs['width']}b") for value in values]
        meta, outputs, difficulty = _rule(rng, knobs, inputs)
        pairs = list(zip(inputs, outputs, strict=True))
        examples, (query, answer) = pairs[:-1], pairs[-1]
        if len(set(outputs)) > 1 and _unique(knobs, examples, query):
            break
    meta |= {"examples": examples, "query": query}
    return Puzzle("bits", text.prompt("bits", examples, query, knobs["style"]), answer, meta,
                  difficulty)


def _rule(
    rng: random.Random, knobs: dict[str, Any], inputs: list[str]
) -> tuple[dict[str, Any], list[str], float]:
    if knobs["rules"] == "unary":
        operation = rng.choice(OPERATIONS)
        outputs = [apply(operation, bits) for bits in inputs]
        return ({"rule": " ".join(operation).strip()}, outputs,
                OPERATIONS.index(operation) / len(OPERATIONS))
    name = rng.choices(list(GATES), [weight for _, _, weight in GATES.values()])[0]
    arity = GATES[name][0]
    streams = [
        ("NOT " if rng.random() < knobs["negate"] else "") + item
        for item in rng.sample(STREAMS, arity)
    ]
    outputs = [gate(name, streams, bits) for bits in inputs]
    return ({"rule": f"{name}({', '.join(streams)})", "gate": name, "streams": streams}, outputs,
            arity / 3)


def _unique(knobs: dict[str, Any], examples: text.Pairs, query: str) -> bool:
    return knobs["rules"] != "unary" or len(_candidates(examples)) == 1


def solve(prompt: str, knobs: dict[str, Any]) -> str | None:
    """The answer from the prompt alone; None if no rule of the family fits."""
    examples, query = text.parse(prompt, "bits")
    if knobs["rules"] == "unary":
        answers = {apply(operation, query) for operation in _candidates(examples)}
        return answers.pop() if len(answers) == 1 else None
    return solve_gates(examples, query)


def solve_gates(examples: text.Pairs, query: str) -> str | None:
    """The answer by the rule that `explain` finds."""
    found = explain(examples, query)
    return found[0] if found else None


def explain(examples: text.Pairs, query: str) -> tuple[str, dict[str, Any]] | None:
    """Answer and rule, blind: the simplest truth table over at most three streams that explains
    every example, as a named gate where one fits.

    Each stream of all examples is one long integer, so a table entry is checked for all bits at
    once. Fewest streams first; among those, the first table that the examples determine wherever
    the query needs it.
    """
    inputs, output = [x for x, _ in examples], int("".join(y for _, y in examples), 2)
    length = sum(map(len, inputs))
    full = (1 << length) - 1
    columns = [int("".join(stream(name, bits) for bits in inputs), 2) for name in STREAMS]
    asked = [stream(name, query) for name in STREAMS]
    for arity in (1, 2, 3):
        for chosen in itertools.combinations(range(len(STREAMS)), arity):
            table = _table([columns[index] for index in chosen], output, full)
            if table is None:
                continue
            keys = zip(*(asked[index] for index in chosen), strict=True)
            bits = [table.get("".join(key)) for key in keys]
            if None not in bits:
                name, streams = _named([STREAMS[index] for index in chosen], table)
                return "".join(bit for bit in bits if bit is not None), {
                    "rule": f"{name}({', '.join(streams)})", "gate": name, "streams": streams}
    return None


def _named(streams: list[str], table: dict[str, str]) -> tuple[str, list[str]]:
    """A gate over these streams, in some order and some negated, that a table says; else TABLE,
    with 0 for patterns that no example has."""
    arity = len(streams)
    for name, (wanted, function, _) in GATES.items():
        for order in itertools.permutations(range(arity)) if wanted == arity else ():
            for negated in itertools.product((0, 1), repeat=arity):
                if all(str(function(*(int(key[i]) ^ negated[i] for i in order))) == bit
                       for key, bit in table.items()):
                    return name, [("NOT " if negated[i] else "") + streams[i] for i in order]
    patterns = ("".join(key) for key in itertools.product("01", repeat=arity))
    return "TABLE " + "".join(table.get(key, "0") for key in patterns), streams


def _table(columns: list[int], output: int, full: int) -> dict[str, str] | None:
    """Input pattern -> output bit as far as it occurs; None if some pattern gives both bits."""
    table = {}
    for pattern in itertools.product("01", repeat=len(columns)):
        mask = full
        for column, bit in zip(columns, pattern, strict=True):
            mask &= column if bit == "1" else full ^ column
        ones = mask & output
        if ones and ones != mask:
            return None
        if mask:
            table["".join(pattern)] = "1" if ones else "0"
    return table


def _candidates(examples: text.Pairs) -> list[tuple[str, str]]:
    return [op for op in OPERATIONS if all(apply(op, x) == y for x, y in examples)]
