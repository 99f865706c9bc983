"""Numeral system: numbers to Roman numerals.

Knob `source`: `words` is the easy form (a number in words, no examples); `digits` the challenge's.
"""

from __future__ import annotations

import random
from typing import Any

from puzzles import text
from puzzles.puzzle import Puzzle, how_many

VALUES = ((1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"),
          (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"))
ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
        "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
        "nineteen")
TENS = ("zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def roman(n: int) -> str:
    """The Roman numeral of n >= 1."""
    out = ""
    for value, letters in VALUES:
        out += letters * (n // value)
        n %= value
    return out


def words(n: int) -> str:
    """The number 1..9999 in English words."""
    out: list[str] = []
    for value, name in ((1000, "thousand"), (100, "hundred")):
        if n >= value:
            out += [ONES[n // value], name]
            n %= value
    if n >= 20:
        out.append(TENS[n // 10])
        n %= 10
    if n:
        out.append(ONES[n])
    return " ".join(out)


def number(text_: str) -> int:
    """The inverse of `words`."""
    total = last = 0
    for word in text_.split():
        if word in ("thousand", "hundred"):
            total += last * ({"thousand": 1000, "hundred": 100}[word] - 1)
            continue
        last = ONES.index(word) if word in ONES else 10 * TENS.index(word)
        total += last
    return total


def generate(rng: random.Random, knobs: dict[str, Any]) -> Puzzle:
    """A number to write in the system that the examples, if any, show."""
    values = [rng.randint(*knobs["n"]) for _ in range(how_many(rng, knobs["examples"]) + 1)]
    pairs = [(words(n) if knobs["source"] == "words" else str(n), roman(n)) for n in values]
    examples, (query, answer) = pairs[:-1], pairs[-1]
    meta = {"n": values[-1], "examples": examples, "query": query}
    return Puzzle("numeral", text.prompt("numeral", examples, query, knobs["style"]), answer, meta,
                  difficulty=min(1.0, len(answer) / 15))


def explain(examples: text.Pairs, query: str) -> tuple[str, dict[str, Any]] | None:
    """Answer and rule of the challenge's form, blind; None if an example is no Roman numeral."""
    if any(roman(int(x)) != y for x, y in examples):
        return None
    return roman(int(query)), {"n": int(query)}


def solve(prompt: str, knobs: dict[str, Any]) -> str | None:
    """The number's Roman numeral."""
    query = text.parse(prompt, "numeral")[1]
    return roman(int(query) if query.isdigit() else number(query))
