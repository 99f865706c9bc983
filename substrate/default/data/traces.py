"""Reasoning traces, written by deterministic solvers from a puzzle's rule; the box comes last.

Styles: `none` writes the box only; `short` names the rule found; `full` applies it in small steps,
each a sub-result that a small model can compute from the tokens before it.
"""

from __future__ import annotations

from collections.abc import Callable

from puzzles import Puzzle
from puzzles.equation import OPERATORS
from puzzles.numeral import VALUES


def completion(puzzle: Puzzle, style: str) -> str:
    """What the assistant must produce: the trace, if any, then the boxed answer and nothing after.

    Raises:
        KeyError: unknown style or domain.
    """
    steps = trace(puzzle, style)
    return f"{steps}\n\\boxed{{{puzzle.answer}}}" if steps else f"\\boxed{{{puzzle.answer}}}"


def trace(puzzle: Puzzle, style: str) -> str:
    """The trace alone, empty for style `none`."""
    writers: dict[str, Callable[[Puzzle], str]] = {
        "none": lambda puzzle: "", "short": short, "full": full,
    }
    return writers[style](puzzle)


def short(puzzle: Puzzle) -> str:
    """The rule alone."""
    meta = puzzle.meta
    return {
        "bits": lambda: meta["rule"],
        "gravity": lambda: f"h={meta['h']}",
        "unit": lambda: f"k={meta['factor']}",
        "numeral": lambda: str(meta["n"]),
        "cipher": lambda: f"shift {meta['shift']}",
        "equation": lambda: meta["rule"],
    }[puzzle.domain]()


def full(puzzle: Puzzle) -> str:
    """The rule, then its application step by step."""
    return {
        "bits": _bits, "gravity": _gravity, "unit": _unit, "numeral": _numeral,
        "cipher": _cipher, "equation": _equation,
    }[puzzle.domain](puzzle)


def _bits(puzzle: Puzzle) -> str:
    query, answer = puzzle.meta["query"], puzzle.answer
    halves = [f"{query[i : i + 4]} -> {answer[i : i + 4]}" for i in range(0, len(query), 4)]
    return f"{puzzle.meta['rule']} " + " ".join(halves)


def _gravity(puzzle: Puzzle) -> str:
    h, t = puzzle.meta["h"], puzzle.meta["t"]
    return f"h={h} t={t} {t}*{t}={t * t} {t * t}*{h}={puzzle.answer}"


def _unit(puzzle: Puzzle) -> str:
    factor, x = puzzle.meta["factor"], puzzle.meta["x"]
    tens, ones = x // 10 * 10, x % 10
    if not tens or not ones:
        return f"k={factor} {x}*{factor}={puzzle.answer}"
    return (f"k={factor} {tens}*{factor}={tens * factor} {ones}*{factor}={ones * factor} "
            f"{tens * factor}+{ones * factor}={puzzle.answer}")


def _numeral(puzzle: Puzzle) -> str:
    n = puzzle.meta["n"]
    parts = []
    for place in (1000, 100, 10, 1):
        value = n // place % 10 * place
        if value:
            parts.append(f"{value}={_roman_digit(value)}")
    return f"{n} " + " ".join(parts)


def _roman_digit(value: int) -> str:
    out = ""
    for size, letters in VALUES:
        out += letters * (value // size)
        value %= size
    return out


def _cipher(puzzle: Puzzle) -> str:
    letters = zip(puzzle.meta["query"], puzzle.answer, strict=True)
    return f"shift {puzzle.meta['shift']} " + " ".join(f"{a} -> {b}" for a, b in letters)


def _equation(puzzle: Puzzle) -> str:
    (a, b), rule = puzzle.meta["operands"], puzzle.meta["rule"]
    return f"{rule} {a} {b} = {OPERATORS[rule](a, b)}"
