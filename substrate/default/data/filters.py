"""Filters: each names the puzzles it drops, so that a summary can say why rows are missing."""

from __future__ import annotations

from collections import Counter
from typing import Any

from puzzles import DOMAINS, Preset, Puzzle, solve, split_of

MIDDLE = 0.5  # rank within its domain that divides easy from hard


def keep(
    puzzles: list[Puzzle], settings: dict[str, Any], preset: Preset
) -> tuple[list[Puzzle], dict[str, int]]:
    """The puzzles that pass, and how many each filter dropped."""
    dropped: Counter[str] = Counter()
    seen: set[str] = set()
    kept = []
    for puzzle, rank in zip(puzzles, ranks(puzzles), strict=True):
        reason = _reason(puzzle, rank, settings, preset, seen)
        if reason:
            dropped[reason] += 1
            continue
        seen.add(puzzle.prompt)
        kept.append(puzzle)
    return kept, dict(sorted(dropped.items()))


def ranks(puzzles: list[Puzzle]) -> list[float]:
    """How hard each puzzle is among those of its domain: 0 the easiest, towards 1 the hardest.

    Difficulties of two domains do not compare: a threshold on them would drop whole domains. Equal
    ones rank in the order given.
    """
    found = [0.0] * len(puzzles)
    for domain in DOMAINS:
        members = [i for i, puzzle in enumerate(puzzles) if puzzle.domain == domain]
        members.sort(key=lambda i: puzzles[i].difficulty)
        for place, i in enumerate(members):
            found[i] = place / len(members)
    return found


def _reason(
    puzzle: Puzzle, rank: float, settings: dict[str, Any], preset: Preset, seen: set[str]
) -> str | None:
    """The first filter that drops the puzzle."""
    real = puzzle.meta.get("real", False)  # split and solved by the trusted side
    if not real and split_of(puzzle.prompt) != "train":
        return "not in the training split"
    if settings["dedupe"] and puzzle.prompt in seen:
        return "dedupe"
    if settings["difficulty"] == "easy" and rank >= MIDDLE:
        return "difficulty"
    if settings["difficulty"] == "hard" and rank < MIDDLE:
        return "difficulty"
    if settings["max_chars"] is not None and len(puzzle.prompt) > settings["max_chars"]:
        return "max_chars"
    if real:
        return None
    if settings["resolve"] and solve(puzzle.prompt, puzzle.domain, preset) != puzzle.answer:
        return "resolve"
    return None
