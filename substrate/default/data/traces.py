"""Reasoning traces, written by deterministic solvers from a puzzle's rule; the box comes last.

Styles: `none` writes the box only; `short` names the rule found; `full` applies it in small steps,
each a sub-result that a small model can compute from the tokens before it. `bases`, `enumerate`
and `recall` find the rule before they apply it (data/searched.py), each in the domain that it is
for; elsewhere, and where the answer cannot be found so, they write what `full` does. `recall`
enumerates equations in digits.
"""

from __future__ import annotations

from collections.abc import Callable

from puzzles import Puzzle, bits, cipher, cryptarithm, numeral
from puzzles.equation import OPERATORS

from data import replay, searched

# Styles that search: the domain of each, and its writers, of which the first that can writes.
SEARCHED: dict[str, tuple[str, tuple[Callable[[Puzzle], str | None], ...]]] = {
    "bases": ("bits", (searched.bases,)),
    "enumerate": ("equation", (searched.enumerated,)),
    "recall": ("equation", (searched.recalled, searched.enumerated)),
}


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
    return writers[style](puzzle) if style in writers else _searched(puzzle, style) or full(puzzle)


def _searched(puzzle: Puzzle, style: str) -> str | None:
    """The trace of a style that searches, if its text alone leads to the very answer."""
    domain, writers = SEARCHED[style]
    found = (writer(puzzle) for writer in writers if puzzle.domain == domain)
    return next((text for text in found if text and replay.answer(text) == puzzle.answer), None)


def short(puzzle: Puzzle) -> str:
    """The rule alone."""
    meta = puzzle.meta
    if puzzle.domain == "gravity":
        return f"h={_number(meta['half_g'])}"
    if puzzle.domain == "unit":
        return f"k={_number(meta['factor'])}"
    if puzzle.domain == "numeral":
        return str(meta["n"])
    if puzzle.domain == "cipher":
        return f"shift {meta['shift']}" if "shift" in meta else _letters(puzzle)
    if puzzle.domain == "equation" and meta.get("mode") == "reversed":
        return f"{meta['rule']} reversed"
    return str(meta["rule"])


def full(puzzle: Puzzle) -> str:
    """The rule, then its application step by step."""
    return {
        "bits": _bits, "gravity": _gravity, "unit": _unit, "numeral": _numeral,
        "cipher": _cipher, "equation": _equation,
    }[puzzle.domain](puzzle)


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4f}"


def _bits(puzzle: Puzzle) -> str:
    meta, query, answer = puzzle.meta, puzzle.meta["query"], puzzle.answer
    if "gate" in meta:
        streams = [f"{name}: {bits.stream(name, query)}" for name in meta["streams"]]
        return "\n".join([meta["rule"], *streams, f"{meta['gate']}: {answer}"])
    halves = [f"{query[i : i + 4]} -> {answer[i : i + 4]}" for i in range(0, len(query), 4)]
    return f"{meta['rule']} " + " ".join(halves)


def _gravity(puzzle: Puzzle) -> str:
    h, t = puzzle.meta["half_g"], puzzle.meta["t"]
    if puzzle.meta["decimals"] == 0:
        h, t = int(h), int(t)
        return f"h={h} t={t} {t}*{t}={t * t} {t * t}*{h}={puzzle.answer}"
    found = [f"{d} / {x}^2 = {float(d) / float(x) ** 2:.4f}" for x, d in puzzle.meta["examples"]]
    return "\n".join([*found, f"g/2 = {h:.4f}", f"{t}^2 = {t * t:.4f}",
                      f"{h:.4f} * {t * t:.4f} = {puzzle.answer}"])


def _unit(puzzle: Puzzle) -> str:
    factor, x = puzzle.meta["factor"], puzzle.meta["x"]
    if puzzle.meta["decimals"]:
        found = [f"{b} / {a} = {float(b) / float(a):.4f}" for a, b in puzzle.meta["examples"]]
        return "\n".join([*found, f"{factor:.4f} * {x} = {puzzle.answer}"])
    factor, x = int(factor), int(x)
    tens, ones = x // 10 * 10, x % 10
    if not tens or not ones:
        return f"k={factor} {x}*{factor}={puzzle.answer}"
    return (f"k={factor} {tens}*{factor}={tens * factor} {ones}*{factor}={ones * factor} "
            f"{tens * factor}+{ones * factor}={puzzle.answer}")


def _numeral(puzzle: Puzzle) -> str:
    n = puzzle.meta["n"]
    values = [n // place % 10 * place for place in (1000, 100, 10, 1)]
    return " ".join(f"{value}={numeral.roman(value)}" for value in values if value)


def _cipher(puzzle: Puzzle) -> str:
    query, answer = puzzle.meta["query"], puzzle.answer
    if "shift" in puzzle.meta:
        letters = zip(query, answer, strict=True)
        return f"shift {puzzle.meta['shift']} " + " ".join(f"{a} -> {b}" for a, b in letters)
    words = zip(query.split(), answer.split(), strict=True)
    return "\n".join([_letters(puzzle), *(f"{a} -> {b}" for a, b in words)])


def _letters(puzzle: Puzzle) -> str:
    """The letters that the examples show, in alphabetical order."""
    table = cipher.letter_table(puzzle.meta["examples"]) or {}
    return " ".join(f"{a}={b}" for a, b in sorted(table.items()) if a != " ")


def _equation(puzzle: Puzzle) -> str:
    (a, b), meta = puzzle.meta["operands"], puzzle.meta
    if "mode" not in meta:
        return f"{meta['rule']} {a} {b} = {OPERATORS[meta['rule']](a, b)}"
    value = cryptarithm.evaluate((meta["rule"], meta["mode"]), a, b)
    step = f"{a} {b} = {value}"
    if meta["mode"] == "reversed":
        step = f"{a[::-1]} {b[::-1]} reversed = {value}"
    return f"{short(puzzle)}: {step}" + (f" = {puzzle.answer}" if meta["symbolic"] else "")
