"""Brains for collector and meta that know only what the prompt says, for whole rounds.

    FakeOpenAI(by_role(researcher))   # or --brain tests.support.role_brains:…, or of your own

`by_role` sends a request to the brain of the tool it offers; all else goes to the worker's brain.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from tests.support.openai_support import calls

Brain = Callable[[dict[str, Any]], dict[str, Any]]


def by_role(worker: Brain) -> Brain:
    """One brain for all three roles."""

    def brain(request: dict[str, Any]) -> dict[str, Any]:
        offered = {tool["function"]["name"] for tool in request.get("tools") or []}
        if "write_prose" in offered:
            return collector(request)
        return meta(request) if "propose" in offered else worker(request)

    return brain


def collector(request: dict[str, Any]) -> dict[str, Any]:
    """True sentences, one per candidate."""
    task = request["messages"][1]["content"]
    lines = [json.loads(line) for line in _block(task, r'figures section="candidates"[^>]*')]
    said = [
        f"[{item['candidate']}] was not scored."
        if item["dev"] is None
        else f"[{item['candidate']}] has dev {item['dev']:.3f}."
        for item in lines
    ]
    verdict = json.loads(_block(task, r'figures section="calibration"[^>]*')[0])["verdict"]
    prose = {
        "candidates": " ".join(said),
        "patterns": "One round with one seed an axis leaves the ranking undecided.",
        "calibration": f"By the computed verdict dev is: {verdict.replace('_', ' ')}.",
        "surprises": "Nothing beyond what the computed list has.",
        "audit": "The checks are as computed; nothing is added to them.",
    }
    return {"tool_calls": calls(("prose", "write_prose", prose))}


def meta(request: dict[str, Any]) -> dict[str, Any]:
    """The same axes again with what is open of them; promotes the first that may be. Where dev is
    no evidence, on to transfer, and no longer the checkpoint that dev likes best."""
    task = request["messages"][1]["content"]
    policy = json.loads(_block(task, r'policy round="\d+"')[0])
    catalogue = {item["axis"]: item for item in map(json.loads, _block(task, "catalogue"))}
    trials = [json.loads(line) for line in _block(task, "trials[^>]*")]
    earned = json.loads(re.search(r"by objective: (\{.*\})\n", task).group(1))  # type: ignore[union-attr]
    found = json.loads(_block(task, r'evidence section="calibration"')[0])
    lost = found["verdict"] == "not_evidence"
    objective = "maximise_transfer" if lost else policy["objective"]
    best = list(earned[objective].items())[:1]
    gone = {(t["axis"], t["move"]) for t in trials if t["candidate"] in dict(best)}
    names = [name.partition(" (")[0] for name in policy["axes"]]
    axes = [
        {
            "axis": name,
            "reason": "its other moves are open",
            "moves": [m for m in catalogue[name]["open_moves"] if (name, m) not in gone],
        }
        for name in names
    ]
    figure = f"best dev {found['best_dev']:.4f}"
    proposal = {
        "mode": "transfer" if lost else policy["mode"],
        "objective": objective,
        "reason": f"by {figure}" if lost else "one round more",
        "axes": axes,
        "promotions": [{"candidate": c, "figure": f} for c, f in best],
        "discoveries": [{"kind": "summary", "text": "A round of the same axes.", "figure": figure}],
    }
    if lost:
        proposal["selection"] = {"criterion": "last", "figure": figure}
    return {"tool_calls": calls(("proposal", "propose", proposal))}


def _block(text: str, tag: str) -> list[str]:
    """Lines between the tag and its end."""
    found = re.search(rf"<{tag}>\n(.*?)\n</", text, re.DOTALL)
    return found.group(1).splitlines() if found else []
