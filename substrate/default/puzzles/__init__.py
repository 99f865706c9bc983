"""The benchmark's puzzles: six domains, generators and blind solvers, presets, the split rule."""

from __future__ import annotations

import random
from typing import Any

from puzzles import bits, cipher, equation, numeral
from puzzles.measured import GRAVITY, UNIT
from puzzles.puzzle import DOMAINS, Preset, PresetError, Puzzle, load_preset, split_of

__all__ = ["DOMAINS", "Preset", "PresetError", "Puzzle", "draw", "generate", "load_preset", "solve",
           "split_of"]

_BY_DOMAIN: dict[str, Any] = {
    "bits": bits, "gravity": GRAVITY, "unit": UNIT, "numeral": numeral, "cipher": cipher,
    "equation": equation,
}


def generate(
    preset: Preset, domain: str, rng: random.Random, **overrides: Any
) -> Puzzle:
    """One puzzle of a domain, of any split."""
    puzzle: Puzzle = _BY_DOMAIN[domain].generate(rng, preset.of(domain, **overrides))
    return puzzle


def solve(prompt: str, domain: str, preset: Preset) -> str | None:
    """Solves a prompt blind; None if it cannot."""
    answer: str | None = _BY_DOMAIN[domain].solve(prompt, preset.of(domain))
    return answer


def draw(
    preset: Preset, domain: str, n: int, seed: int, split: str, **overrides: Any
) -> list[Puzzle]:
    """n puzzles with different prompts, all of one split; fewer if the domain has no more."""
    rng = random.Random(f"{preset.name}:{domain}:{split}:{seed}")
    found: dict[str, Puzzle] = {}
    misses = 0
    while len(found) < n and misses < 2000 + 20 * n:
        puzzle = generate(preset, domain, rng, **overrides)
        if split_of(puzzle.prompt) == split and puzzle.prompt not in found:
            found[puzzle.prompt] = puzzle
        else:
            misses += 1
    return list(found.values())
