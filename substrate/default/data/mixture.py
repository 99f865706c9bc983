"""Mixture: how many rows each domain gets, and drawing its puzzles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puzzles import DOMAINS, Preset, Puzzle, draw

TEMPERATURE = 1.0  # shares are weight ** (1 / TEMPERATURE): above 1 flattens the mixture


def counts(total: int, weights: dict[str, float]) -> dict[str, int]:
    """Rows per domain, summing to `total`; remainders go to the largest fractions."""
    shares = {domain: weights[domain] ** (1 / TEMPERATURE) for domain in DOMAINS}
    whole = sum(shares.values())
    exact = {domain: total * share / whole for domain, share in shares.items()}
    rows = {domain: int(value) for domain, value in exact.items()}
    by_rest = sorted(DOMAINS, key=lambda domain: rows[domain] - exact[domain])
    for domain in by_rest[: total - sum(rows.values())]:
        rows[domain] += 1
    return rows


def sample(
    preset: Preset, settings: dict[str, Any], seed: int, taken: Mapping[str, int] | None = None
) -> list[Puzzle]:
    """Puzzles of the training split in the recipe's mixture, less what real rows have `taken` of a
    domain's share.

    A domain with fewer different prompts than its share asks for repeats them: that is what
    up-sampling means there.
    """
    puzzles: list[Puzzle] = []
    for domain, count in counts(settings["examples"], settings["mixture"]).items():
        count -= (taken or {}).get(domain, 0)
        overrides = {}
        if domain == "equation":
            overrides["operators"] = settings["equation_operators"]
        found = draw(preset, domain, count, seed, "train", **overrides)
        puzzles += [found[index % len(found)] for index in range(count)] if found else []
    return puzzles
