"""What a campaign decided: the measure of whether a disturbance changed anything."""

from typing import Any

from aevo.files.documents import read
from aevo.files.paths import Layout
from aevo.records.evidence import Evidence
from aevo.records.manifest import Manifest
from aevo.records.plan import Plan
from aevo.records.policy import Policy


def outcome(layout: Layout, rounds: int) -> dict[str, Any]:
    """Everything a campaign decided, without times, job ids and how often it was interrupted."""
    found: dict[str, Any] = {}
    for number in range(1, rounds + 1):
        files = layout.round(number)
        plan = read(Plan, files.plan)
        for item in plan.candidates:
            data = read(Manifest, files.candidate(item.id).manifest).model_dump()
            data["cost"] = data["campaign"] = None
            for run in data["runs"]:
                run["seconds"] = run["attempt"] = None
            found[f"{number}/{item.id}"] = data
        evidence = read(Evidence, files.evidence).model_dump()
        evidence["campaign"] = evidence["manifests"] = None
        found[f"{number}/evidence"] = evidence
        found[f"{number}/policy"] = read(Policy, layout.policy(number + 1)).model_dump()
    return found
