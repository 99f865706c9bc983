"""The benchmark's puzzles: six domains, generators and blind solvers, presets, the split rule."""

from __future__ import annotations

import random
from typing import Any

from puzzles import bits, cipher, equation, gravity, numeral, unit
from puzzles.puzzle import DOMAINS, Preset, PresetError, Puzzle, load_preset, split_of

__all__ = ["DOMAINS", "Preset", "PresetError", "Puzzle", "draw", "generate", "load_preset", "solve",
           "split_of"]

_MODULES: dict[str, Any] = {
    "bits": bits, "gravity": gravity, "unit": unit, "numeral": numeral, "cipher": cipher,
    "equation": equation,
}


def generate(
    preset: Preset, domain: str, rng: random.Random, variant: str = "train", **overrides: Any
) -> Puzzle:
    """One puzzle of a domain, of any split."""
    puzzle: Puzzle = _MODULES[domain].generate(rng, preset.of(domain, variant, **overrides))
    return puzzle


def solve(prompt: str, domain: str, preset: Preset) -> str | None:
    """Solves a prompt blind; None if it cannot."""
    answer: str | None = _MODULES[domain].solve(prompt, preset.of(domain, "train"))
    return answer


def draw(
    preset: Preset, domain: str, n: int, seed: int, split: str, variant: str | None = None,
    **overrides: Any,
) -> list[Puzzle]:
    """n puzzles with different prompts, all of one split; fewer if the domain has no more.

    `variant` decides the knobs (default: the split's name).
    """
    rng = random.Random(f"{preset.name}:{domain}:{split}:{seed}")
    found: dict[str, Puzzle] = {}
    misses = 0
    while len(found) < n and misses < 2000 + 20 * n:
        puzzle = generate(preset, domain, rng, variant or split, **overrides)
        if split_of(puzzle.prompt) == split and puzzle.prompt not in found:
            found[puzzle.prompt] = puzzle
        else:
            misses += 1
    return list(found.values())
