"""Recomputes a campaign's evidence from what it was made of."""

from pathlib import Path
from typing import Any

from aevo.errors import RecordError
from aevo.evidence import wording
from aevo.evidence.build import build
from aevo.evidence.inputs import read_rounds
from aevo.evidence.quotes import prose_faults
from aevo.files import documents
from aevo.files.paths import Layout
from aevo.policy.posterior import beliefs, trust
from aevo.records.evidence import Evidence
from aevo.records.policy import Policy


def differences(recorded: Any, computed: Any, where: str = "") -> list[str]:
    """Where two dumped documents differ, one line a place; figures may differ by rounding."""
    if isinstance(recorded, dict) and isinstance(computed, dict):
        found = []
        for key in sorted(recorded.keys() | computed.keys()):
            path = f"{where}.{key}" if where else str(key)
            found += differences(recorded.get(key), computed.get(key), path)
        return found
    if isinstance(recorded, list) and isinstance(computed, list) and len(recorded) == len(computed):
        pairs = zip(recorded, computed, strict=True)
        return [
            line
            for index, (one, other) in enumerate(pairs)
            for line in differences(one, other, f"{where}[{index}]")
        ]
    if isinstance(recorded, float) and isinstance(computed, float):
        if abs(recorded - computed) <= 1e-6:
            return []
    elif recorded == computed:
        return []
    return [f"{where}: recorded {recorded!r}, recomputed {computed!r}"]


def verify(layout: Layout) -> list[str]:
    """Recomputes the evidence of every finished round, and the posterior in the policy that it led
    to; one line for each difference.

    A model's prose is no figure: it is taken as it is, and its quotations are checked again.

    Raises:
        RecordError: there is no evidence, or a record it rests on is missing or corrupt.
    """
    numbers = [item.number for item in layout.rounds() if item.evidence.exists()]
    if not numbers:
        raise RecordError(f"{layout.root} has no round with evidence", "run a round first")
    lines = []
    for number in numbers:
        folder = layout.round(number)
        recorded = documents.read(Evidence, folder.evidence)
        computed = build(read_rounds(layout, number)).model_copy(update={"prose": recorded.prose})
        found = differences(recorded.model_dump(mode="json"), computed.model_dump(mode="json"))
        if recorded.prose is not None and recorded.prose.sections:
            faults = prose_faults(recorded.prose.sections, computed)
            found += [f"prose.sections.{fault}" for fault in faults]
        if not found and _text(folder.evidence_text) != wording.render(computed):
            found = ["evidence.md is not the rendering of evidence.json"]
        if layout.policy(number + 1).exists():
            found += _beliefs(documents.read(Policy, layout.policy(number + 1)), computed)
        lines += [f"round {number}: {line}" for line in found]
    return lines


def _beliefs(policy: Policy, evidence: Evidence) -> list[str]:
    """Where the posterior that the round's policy states is not that of its trials; a policy of
    before there was one states none."""
    if not policy.beliefs:
        return []
    found = beliefs(policy.tried, policy.standing, trust(evidence.calibration, policy.objective))
    stated = [item.model_dump() for item in policy.beliefs]
    return differences(stated, [item.model_dump() for item in found], "policy.beliefs")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
