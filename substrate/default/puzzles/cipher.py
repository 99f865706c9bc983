"""Text encryption, easy form: a shift of the alphabet that does not wrap."""

from __future__ import annotations

import random
from string import ascii_uppercase as ALPHABET
from typing import Any

from puzzles import text
from puzzles.puzzle import Puzzle


def shift(word: str, by: int) -> str:
    """Every letter moved `by` places on; it must stay in the alphabet."""
    return "".join(ALPHABET[ALPHABET.index(letter) + by] for letter in word)


def generate(rng: random.Random, knobs: dict[str, Any]) -> Puzzle:
    """Words over the first `letters` letters, all shifted by the same secret number."""
    by = rng.randint(1, len(ALPHABET) - knobs["letters"])
    words = ["".join(rng.choices(ALPHABET[: knobs["letters"]], k=knobs["word"]))
             for _ in range(knobs["examples"] + 1)]
    pairs = [(word, shift(word, by)) for word in words]
    examples, (query, answer) = pairs[:-1], pairs[-1]
    meta = {"shift": by, "examples": examples, "query": query}
    return Puzzle("cipher", text.prompt("cipher", examples, query), answer, meta,
                  difficulty=by / len(ALPHABET))


def solve(prompt: str, knobs: dict[str, Any]) -> str | None:
    """The shift from the examples' letters; None if they contradict each other."""
    examples, query = text.parse(prompt)
    shifts = {ALPHABET.index(b) - ALPHABET.index(a)
              for x, y in examples for a, b in zip(x, y, strict=True)}
    return shift(query, shifts.pop()) if len(shifts) == 1 else None
