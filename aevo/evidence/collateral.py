"""Domains that a change cost: what fell, item by item and beyond chance, whatever dev did.

A new format for one domain may destroy another, which dev's mean hides where the first gained as
much. Every explorer's domains are tested by themselves against the anchor's answers to the same
items (McNemar's exact p), all of a round's tests together adjusted for their number (Holm).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from aevo.evidence.inputs import CandidateFacts
from aevo.statistics.multiplicity import holm
from aevo.statistics.paired import answers, mcnemar

FELL = 0.10  # of a domain's items, at the least: items alone do not tell what another seed would do
LEVEL = 0.05


def damage(
    anchor: CandidateFacts, explorers: Sequence[CandidateFacts]
) -> dict[str, dict[str, float]]:
    """By candidate, the domains that it cost and the adjusted p of each."""
    tests: list[tuple[str, str, float, float]] = []
    for item in explorers:
        for domain, (gain, p) in _domains(anchor, item).items():
            tests.append((item.plan.id, domain, gain, p))
    found: dict[str, dict[str, float]] = {item.plan.id: {} for item in explorers}
    adjusted = holm([p for *_, p in tests])
    for (who, domain, gain, _), p in zip(tests, adjusted, strict=True):
        if gain <= -FELL and p < LEVEL:
            found[who][domain] = float(f"{p:.6g}")
    return found


def _domains(anchor: CandidateFacts, explorer: CandidateFacts) -> Mapping[str, tuple[float, float]]:
    """Gain and two-sided p by domain, on the items that both answered."""
    members: dict[str, list[str]] = {}
    for item in sorted(anchor.correct.keys() & explorer.correct.keys()):
        members.setdefault(anchor.domain_of[item], []).append(item)
    found = {}
    for domain, items in sorted(members.items()):
        before, after = answers(anchor.correct, items), answers(explorer.correct, items)
        won, lost = int(np.sum(after & ~before)), int(np.sum(before & ~after))
        found[domain] = ((won - lost) / len(items), mcnemar(won, lost))
    return found
