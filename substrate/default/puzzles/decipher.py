"""Blind solver of the challenge's equations, numeric and symbolic.

Several rules often fit, so each reading of the examples casts a vote for the answer it gives (all
are equally likely beforehand), and the leading answer is given. For symbolic ones the examples are
joined like tables: per rule, the digits whose repetitions fit a row are indexed by the glyphs that
earlier rows have fixed, so that a reading costs a look-up and not a search.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from puzzles.cryptarithm import RULES, evaluate
from puzzles.text import Pairs

DIGITS = "0123456789"
MAX_STEPS = 3000  # partial readings looked at, per rule
LEAD = 0.5  # share of the votes that a symbolic answer must exceed

Reading = tuple[tuple[str, str], tuple[str, str]]  # rule, the query's operands in digits
Vote = tuple[str, tuple[str, str], tuple[str, str]]  # answer, then a reading


def solve(examples: Pairs, query: str, lead: float = LEAD) -> str | None:
    """The answer; None if no example shows the query's operator or no answer leads.

    `lead` is the share of the votes that a symbolic answer must exceed; 0: the most frequent.
    """
    found = explain(examples, query, lead)
    return found[0] if found else None


def explain(
    examples: Pairs, query: str, lead: float = LEAD
) -> tuple[str, dict[str, Any]] | None:
    """Like `solve`, with the rule that gives the answer and the query's operands, the first of
    several in the order of RULES."""
    if len(query) != 5 or any(len(x) != 5 for x, _ in examples):
        return None
    rows = [(x[:2], x[3:], y) for x, y in examples if x[2] == query[2]]
    if not rows:
        return None
    symbolic = not query[:2].isdigit()
    votes: Counter[str] = Counter()
    first: dict[str, Reading] = {}
    for answer, *reading in (_symbolic if symbolic else _numeric)(rows, query):
        votes[answer] += 1
        first.setdefault(answer, (reading[0], reading[1]))
    if not votes:
        return None
    answer, most = votes.most_common(1)[0]  # of equals the first rule's
    if symbolic and most <= lead * votes.total():
        return None
    (name, mode), operands = first[answer]
    return answer, {"rule": name, "mode": mode, "operands": operands, "symbolic": symbolic,
                    "guess": False}


def reading(
    examples: Pairs, query: str, rule: tuple[str, str], answer: str
) -> dict[str, str] | None:
    """Digits for the glyphs by which a rule gives a symbolic puzzle's answer: the first of those
    that its catalogue admits; None if none does."""
    glyphs = ["".join(row) for row in ordered(examples, query[2])]
    for digits in _readings(glyphs, rule):
        found = _answer(rule, query[:2], query[3:], digits)
        if found is not None and found[0] == answer:
            operands = zip(query[:2] + query[3:], "".join(found[1]), strict=True)
            return {**digits, **dict(operands)}
    return None


def ordered(examples: Pairs, sign: str) -> list[tuple[str, str, str]]:
    """The examples that show a sign, as operands and result, in the order that they are read in:
    the longest say most."""
    rows = {(x[:2], x[3:], y) for x, y in examples if x[2] == sign}
    return sorted(rows, key=lambda row: (-len("".join(row)), "".join(row)))


def _numeric(rows: list[tuple[str, str, str]], query: str) -> Iterator[Vote]:
    a, b = query[:2], query[3:]
    for rule in RULES:
        if all(evaluate(rule, x, y) == z for x, y, z in rows):
            yield evaluate(rule, a, b), rule, (a, b)


def _symbolic(rows: list[tuple[str, str, str]], query: str) -> Iterator[Vote]:
    glyphs = sorted({a + b + y for a, b, y in rows}, key=lambda row: (-len(row), row))
    for rule in RULES:
        for digits in _readings(glyphs, rule):
            found = _answer(rule, query[:2], query[3:], digits)
            if found is not None:
                yield found[0], rule, found[1]


def _answer(
    rule: tuple[str, str], a: str, b: str, digits: dict[str, str]
) -> tuple[str, tuple[str, str]] | None:
    """The query's result in glyphs, and its operands in digits; None if a glyph that the result
    needs is not known."""
    new = [glyph for glyph in _distinct(a + b) if glyph not in digits]
    if new and rule[0] not in ("cat", "tac"):
        return None
    # Putting side by side works with any digits; large ones, as a zero in front would be lost.
    free = [digit for digit in reversed(DIGITS) if digit not in digits.values()]
    known = {**digits, **dict(zip(new, free, strict=False))}
    operands = "".join(known[c] for c in a), "".join(known[c] for c in b)
    value = evaluate(rule, *operands)
    back = {digit: glyph for glyph, digit in known.items()} | {"-": "-"}
    if not all(c in back for c in value):
        return None
    return "".join(back[c] for c in value), operands


@dataclass(frozen=True)
class _Join:
    """One row: digits of its new glyphs, by the digits of those that earlier rows have fixed."""

    fixed: list[str]
    new: list[str]
    digits: dict[str, list[str]]


def _readings(rows: list[str], rule: tuple[str, str]) -> Iterator[dict[str, str]]:
    """Digits for the glyphs, one to one, such that every row holds; within MAX_STEPS."""
    joins = _joins(rows, _table(rule))
    steps = 0

    def extend(depth: int, digits: dict[str, str]) -> Iterator[dict[str, str]]:
        nonlocal steps
        if depth == len(joins):
            yield digits
            return
        join, used = joins[depth], set(digits.values())
        for new in join.digits.get("".join(digits[glyph] for glyph in join.fixed), ()):
            steps += 1
            if steps > MAX_STEPS:
                return
            if used.isdisjoint(new):
                yield from extend(depth + 1, {**digits, **dict(zip(join.new, new, strict=True))})

    if joins:
        yield from extend(0, {})


def _joins(rows: list[str], table: dict[str, list[str]]) -> list[_Join]:
    """The rows as look-ups, in order; empty if some row fits no digits at all."""
    joins: list[_Join] = []
    known: set[str] = set()
    for row in rows:
        glyphs, candidates = _distinct(row), table.get(shape(row))
        if candidates is None:
            return []
        fixed = [i for i, glyph in enumerate(glyphs) if glyph in known]
        new = [i for i, glyph in enumerate(glyphs) if glyph not in known]
        digits: defaultdict[str, list[str]] = defaultdict(list)
        for found in candidates:
            digits["".join(found[i] for i in fixed)].append("".join(found[i] for i in new))
        joins.append(_Join([glyphs[i] for i in fixed], [glyphs[i] for i in new], digits))
        known.update(glyphs)
    return joins


@cache
def _table(rule: tuple[str, str]) -> dict[str, list[str]]:
    """Pattern of repetitions -> different digits, in order, of all equations of the rule."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    operands = [f"{value:02d}" for value in range(100)]
    for a in operands:
        for b in operands:
            row = a + b + evaluate(rule, a, b)
            found[shape(row)].append(_distinct(row))
    return dict(found)


def _distinct(row: str) -> str:
    return "".join(dict.fromkeys(row.replace("-", "")))


def shape(row: str) -> str:
    """`5511-6` -> `AABB-C`: two rows with one pattern may be one equation in other glyphs."""
    letters: dict[str, str] = {"-": "-"}
    return "".join(letters.setdefault(c, chr(64 + len(letters))) for c in row)
