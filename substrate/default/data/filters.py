"""Filters: each names the puzzles it drops, so that a summary can say why rows are missing."""

from __future__ import annotations

from collections import Counter
from typing import Any

from puzzles import Preset, Puzzle, solve, split_of

MIDDLE = 0.5  # difficulty that divides easy from hard


def keep(
    puzzles: list[Puzzle], settings: dict[str, Any], preset: Preset
) -> tuple[list[Puzzle], dict[str, int]]:
    """The puzzles that pass, and how many each filter dropped."""
    dropped: Counter[str] = Counter()
    seen: set[str] = set()
    kept = []
    for puzzle in puzzles:
        reason = _reason(puzzle, settings, preset, seen)
        if reason:
            dropped[reason] += 1
            continue
        seen.add(puzzle.prompt)
        kept.append(puzzle)
    return kept, dict(sorted(dropped.items()))


def _reason(
    puzzle: Puzzle, settings: dict[str, Any], preset: Preset, seen: set[str]
) -> str | None:
    """The first filter that drops the puzzle."""
    if split_of(puzzle.prompt) != "train":
        return "not in the training split"
    if settings["dedupe"] and puzzle.prompt in seen:
        return "dedupe"
    if settings["difficulty"] == "easy" and puzzle.difficulty >= MIDDLE:
        return "difficulty"
    if settings["difficulty"] == "hard" and puzzle.difficulty < MIDDLE:
        return "difficulty"
    if settings["max_chars"] is not None and len(puzzle.prompt) > settings["max_chars"]:
        return "max_chars"
    if settings["resolve"] and solve(puzzle.prompt, puzzle.domain, preset) != puzzle.answer:
        return "resolve"
    return None
