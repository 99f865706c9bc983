"""The challenge's equations: `dd op dd`, numeric or with digits replaced by symbols.

An operator symbol stands for one of thirteen operations in one of two modes: plain, or reversed
(operands' digits read backwards, and the result's). "Guess" puzzles ask for an operator that is in
no example. decipher.py solves them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from puzzles import text
from puzzles.puzzle import Puzzle, how_many

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "cat": lambda a, b: 100 * a + b,
    "absdiff": lambda a, b: abs(a - b),
    "tac": lambda a, b: 100 * b + a,
    "rsub": lambda a, b: b - a,
    "add1": lambda a, b: a + b + 1,
    "addm1": lambda a, b: a + b - 1,
    "mul1": lambda a, b: a * b + 1,
    "mulm1": lambda a, b: a * b - 1,
    "mod": lambda a, b: a % b,
    "div": lambda a, b: a // b,
}
NARROW = ("add", "sub", "mul", "cat")
MODES = ("plain", "reversed")
RULES = tuple((name, mode) for name in OPERATIONS for mode in MODES)
NUMERIC_SYMBOLS = "+-*/@#%&$!?:;|^~"
GLYPHS = "!\"#$%&'()*+/:;<>?@[]{}`"


def evaluate(rule: tuple[str, str], a: str, b: str) -> str:
    """The result of a rule on two operands of two digits."""
    name, mode = rule
    if mode == "reversed":
        a, b = a[::-1], b[::-1]
    if name in ("mod", "div") and int(b) == 0:
        return "0"
    value = str(OPERATIONS[name](int(a), int(b)))
    if mode == "reversed":
        sign, digits = ("-", value[1:]) if value.startswith("-") else ("", value)
        value = sign + digits[::-1]
    return value


def generate(rng: random.Random, knobs: dict[str, Any]) -> Puzzle:
    """A numeric or symbolic puzzle; `guess` is how often the query's operator is new."""
    symbolic = knobs["form"] == "symbolic" or (
        knobs["form"] == "mixed" and rng.random() < knobs["symbolic"]
    )
    names = NARROW if knobs["operators"] == "narrow" else tuple(OPERATIONS)
    guess = rng.random() < knobs["guess"]
    count = rng.randint(1, 3)
    signs = rng.sample(NUMERIC_SYMBOLS, count + guess)
    rules = {sign: (rng.choice(names), rng.choice(MODES)) for sign in signs}
    asked = signs[-1] if guess else rng.choice(signs)
    shown = signs[:count]
    rows = [rng.choice(shown) for _ in range(how_many(rng, knobs["examples"]))]
    if not guess and asked not in rows:
        rows[0] = asked
    operands = [(f"{rng.randint(1, 99):02d}", f"{rng.randint(1, 99):02d}") for _ in [*rows, asked]]
    pairs = [(f"{a}{sign}{b}", evaluate(rules[sign], a, b))
             for sign, (a, b) in zip([*rows, asked], operands, strict=True)]
    if symbolic:
        pairs = _in_glyphs(rng, pairs)
    examples, (query, answer) = pairs[:-1], pairs[-1]
    name, mode = rules[asked]
    meta = {"rule": name, "mode": mode, "examples": examples, "query": query,
            "operands": operands[-1], "symbolic": symbolic, "guess": guess}
    return Puzzle("equation", text.prompt("equation", examples, query, knobs["style"]), answer,
                  meta, difficulty=min(1.0, 0.25 * count + 0.3 * guess + 0.4 * symbolic))


def _in_glyphs(rng: random.Random, pairs: text.Pairs) -> text.Pairs:
    """Digits and operators replaced by different glyphs; a minus sign stays."""
    signs = sorted({x[2] for x, _ in pairs})
    glyphs = rng.sample(GLYPHS, 10 + len(signs))
    table = dict(zip([*"0123456789", *signs], glyphs, strict=True))
    return [("".join(table[c] for c in x), "".join(table.get(c, c) for c in y)) for x, y in pairs]
