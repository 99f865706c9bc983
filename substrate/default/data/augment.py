"""Augmentation: other prompts with the same rule. Each share is of rows; a row may get several.

An augmented prompt that leaves the training split is dropped again by build.py, as any other.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from string import ascii_lowercase as LETTERS
from string import ascii_uppercase as ALPHABET
from typing import Any

from puzzles import Preset, Puzzle, bits, cipher, cryptarithm, text
from puzzles.equation import OPERATORS
from puzzles.measured import GRAVITY, UNIT
from puzzles.numeral import roman, words

Pair = tuple[str, str]
Case = tuple[str, str, dict[str, Any]]  # input, its output, the meta fields that change with it
TRIES = 20  # at an input that the puzzle does not show yet


def augment(
    puzzles: list[Puzzle], shares: dict[str, float], preset: Preset, rng: random.Random
) -> list[Puzzle]:
    """Applies each augmentation to its share of the puzzles, in the order of the recipe."""
    out = []
    for puzzle in puzzles:
        for name, share in shares.items():
            if rng.random() < share:
                puzzle = AUGMENTERS[name](puzzle, preset.of(puzzle.domain), rng)
        out.append(puzzle)
    return out


def reorder_examples(puzzle: Puzzle, knobs: dict[str, Any], rng: random.Random) -> Puzzle:
    """The same examples in another order."""
    examples = list(puzzle.meta["examples"])
    rng.shuffle(examples)
    return rebuild(puzzle, examples, puzzle.meta["query"], puzzle.answer)


def extra_example(puzzle: Puzzle, knobs: dict[str, Any], rng: random.Random) -> Puzzle:
    """One more example of the same rule."""
    found = another(puzzle, knobs, rng)
    if found is None or not puzzle.meta["examples"]:
        return puzzle
    x, y, _ = found
    return rebuild(puzzle, [(x, y), *puzzle.meta["examples"]], puzzle.meta["query"], puzzle.answer)


def perturb_numbers(puzzle: Puzzle, knobs: dict[str, Any], rng: random.Random) -> Puzzle:
    """Another query to the same rule."""
    found = another(puzzle, knobs, rng)
    if found is None:
        return puzzle
    x, y, changed = found
    return rebuild(puzzle, puzzle.meta["examples"], x, y, **changed)


def another(puzzle: Puzzle, knobs: dict[str, Any], rng: random.Random) -> Case | None:
    """A new input under the puzzle's rule; None where its form gives none.

    It is none that the puzzle shows already: the answer could be copied from there.
    """
    shown = {puzzle.meta["query"], *(x for x, _ in puzzle.meta["examples"])}
    for _ in range(TRIES):
        case = MAKERS[puzzle.domain](puzzle.meta, knobs, rng)
        if case is None or case[0] not in shown:
            return case
    return None


def _bits(meta: dict[str, Any], knobs: dict[str, Any], rng: random.Random) -> Case:
    x = format(rng.randrange(1, 2 ** knobs["width"] - 1), f"0{knobs['width']}b")
    if "gate" in meta:
        return x, bits.gate(meta["gate"], meta["streams"], x), {}
    name, _, argument = meta["rule"].partition(" ")
    return x, bits.apply((name, argument), x), {}


def _numeral(meta: dict[str, Any], knobs: dict[str, Any], rng: random.Random) -> Case:
    n = rng.randint(*knobs["n"])
    return words(n) if knobs["source"] == "words" else str(n), roman(n), {"n": n}


def _cipher(meta: dict[str, Any], knobs: dict[str, Any], rng: random.Random) -> Case:
    if "shift" in meta:
        word = "".join(rng.choices(ALPHABET[: meta["letters"]], k=len(meta["query"])))
        return word, cipher.shift(word, meta["shift"]), {}
    plain = " ".join(rng.choices(cipher.VOCABULARY, k=len(meta["query"].split())))
    return plain.translate(str.maketrans(LETTERS, meta["key"])), plain, {}


def _equation(meta: dict[str, Any], knobs: dict[str, Any], rng: random.Random) -> Case | None:
    if "mode" in meta:
        if meta["symbolic"]:  # new digits have no glyphs
            return None
        left, right = f"{rng.randint(1, 99):02d}", f"{rng.randint(1, 99):02d}"
        value = cryptarithm.evaluate((meta["rule"], meta["mode"]), left, right)
        return f"{left}{meta['query'][2]}{right}", value, {"operands": (left, right)}
    a, b = (rng.randint(*knobs["operand"]) for _ in "ab")
    return f"{a}{meta['symbol']}{b}", str(OPERATORS[meta["rule"]](a, b)), {"operands": (a, b)}


def rebuild(
    puzzle: Puzzle, examples: list[Pair], query: str, answer: str, **changed: Any
) -> Puzzle:
    """The puzzle with other examples or another query, prompt and meta in step."""
    meta = {**puzzle.meta, "examples": examples, "query": query, **changed}
    prompt = text.prompt(puzzle.domain, examples, query, text.style_of(puzzle.prompt))
    return replace(puzzle, prompt=prompt, answer=answer, meta=meta)


MAKERS: dict[str, Callable[[dict[str, Any], dict[str, Any], random.Random], Case | None]] = {
    "bits": _bits, "gravity": GRAVITY.another, "unit": UNIT.another, "numeral": _numeral,
    "cipher": _cipher, "equation": _equation,
}
AUGMENTERS: dict[str, Callable[[Puzzle, dict[str, Any], random.Random], Puzzle]] = {
    "reorder_examples": reorder_examples,
    "extra_example": extra_example,
    "perturb_numbers": perturb_numbers,
}
