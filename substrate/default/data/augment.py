"""Augmentation: other prompts with the same rule. Each share is of rows; a row may get several.

An augmented prompt that leaves the training split is dropped again by build.py, as any other.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from puzzles import Puzzle, bits, cipher, text
from puzzles.equation import OPERATORS
from puzzles.numeral import roman, words


def augment(puzzles: list[Puzzle], shares: dict[str, float], rng: random.Random) -> list[Puzzle]:
    """Applies each augmentation to its share of the puzzles, in the order of the recipe."""
    out = []
    for puzzle in puzzles:
        for name, share in shares.items():
            if rng.random() < share:
                puzzle = AUGMENTERS[name](puzzle, rng)
        out.append(puzzle)
    return out


def reorder_examples(puzzle: Puzzle, rng: random.Random) -> Puzzle:
    """The same examples in another order."""
    examples = list(puzzle.meta["examples"])
    rng.shuffle(examples)
    return rebuild(puzzle, examples, puzzle.meta["query"], puzzle.answer)


def extra_example(puzzle: Puzzle, rng: random.Random) -> Puzzle:
    """One more example of the same rule."""
    if puzzle.domain == "numeral":
        return puzzle
    x, y, _ = another(puzzle, rng)
    return rebuild(puzzle, [(x, y), *puzzle.meta["examples"]], puzzle.meta["query"], puzzle.answer)


def perturb_numbers(puzzle: Puzzle, rng: random.Random) -> Puzzle:
    """Another query to the same rule."""
    x, y, changed = another(puzzle, rng)
    return rebuild(puzzle, puzzle.meta["examples"], x, y, **changed)


def another(puzzle: Puzzle, rng: random.Random) -> tuple[str, str, dict[str, Any]]:
    """A new input under the puzzle's rule, its output, and the meta fields that change with it."""
    meta = puzzle.meta
    if puzzle.domain == "bits":
        name, _, argument = meta["rule"].partition(" ")
        x = format(rng.randrange(1, 2 ** len(meta["query"]) - 1), f"0{len(meta['query'])}b")
        return x, bits.apply((name, argument), x), {}
    if puzzle.domain == "gravity":
        t = rng.randint(1, 10)
        return str(t), str(meta["h"] * t * t), {"t": t}
    if puzzle.domain == "unit":
        value = rng.randint(2, 40)
        return str(value), str(value * meta["factor"]), {"x": value}
    if puzzle.domain == "numeral":
        n = rng.randint(1, 3999)
        return words(n), roman(n), {"n": n}
    if puzzle.domain == "cipher":
        word = "".join(rng.choices(cipher.ALPHABET[:10], k=len(meta["query"])))
        return word, cipher.shift(word, meta["shift"]), {}
    a, b = rng.randint(1, 12), rng.randint(1, 12)
    return f"{a}{meta['symbol']}{b}", str(OPERATORS[meta["rule"]](a, b)), {"operands": (a, b)}


def rebuild(
    puzzle: Puzzle, examples: list[tuple[str, str]], query: str, answer: str, **changed: Any
) -> Puzzle:
    """The puzzle with other examples or another query, prompt and meta in step."""
    meta = {**puzzle.meta, "examples": examples, "query": query, **changed}
    prompt = text.prompt(puzzle.domain, examples, query)
    return replace(puzzle, prompt=prompt, answer=answer, meta=meta)


AUGMENTERS: dict[str, Callable[[Puzzle, random.Random], Puzzle]] = {
    "reorder_examples": reorder_examples,
    "extra_example": extra_example,
    "perturb_numbers": perturb_numbers,
}
