"""A round's evidence as collector and meta models read it: computed figures, and claims apart.

Whatever a worker's agent can have written (findings, failure texts, names of its moves, values in
its recipe) is data that may try to give orders. It is cut short and shown as JSON text with
everything escaped that could end the block it stands in. This makes an injection plain, not
impossible: what makes it harmless is that no decision rests on words. Figures are computed, and
constitution and promotion rules read only those.
"""

import json
from typing import Any

from aevo.records.evidence import CandidateSummary, Evidence

LONGEST_CLAIM = 240  # characters of one excerpt
MOST_CLAIMS = 6  # excerpts of a kind per candidate


def excerpt(text: str, longest: int = LONGEST_CLAIM) -> str:
    """One line of at most `longest` characters, without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def data(value: Any) -> str:
    """JSON on one line, ASCII only, that can hold neither a tag nor a fence."""
    text = json.dumps(value)
    for character in "<>`":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def bounded(value: Any, longest: int = LONGEST_CLAIM) -> Any:
    """The value with every text in it cut by `excerpt`."""
    if isinstance(value, str):
        return excerpt(value, longest)
    if isinstance(value, dict):
        return {excerpt(str(key), 80): bounded(item, longest) for key, item in value.items()}
    if isinstance(value, list):
        return [bounded(item, longest) for item in value]
    return value


def computed(evidence: Evidence) -> dict[str, str]:
    """The five sections' figures, one JSON document each; without anything an agent claims."""
    found = evidence.calibration
    return {
        "candidates": "\n".join(data(_figures(item)) for item in evidence.candidates),
        "patterns": data(bounded(evidence.patterns.model_dump(exclude={"text"}))),
        "calibration": data(bounded(found.model_dump(exclude={"text"}))),
        "surprises": data([bounded(item.model_dump()) for item in evidence.surprises]),
        "audit": data([bounded(item.model_dump()) for item in evidence.audit]),
    }


def claims(evidence: Evidence) -> str:
    """What the agents say of themselves, one JSON line per candidate that says anything."""
    lines = []
    for item in evidence.candidates:
        said = {
            "findings": [excerpt(text) for text in item.findings[:MOST_CLAIMS]],
            "failure_modes": [excerpt(text) for text in item.failure_modes[:MOST_CLAIMS]],
        }
        if any(said.values()):
            lines.append(data({"candidate": item.candidate, **said}))
    return "\n".join(lines)


def changes(evidence: Evidence) -> str:
    """What explorers changed in code, one JSON line each: the lines taken out and put in, and their
    authors' title and summary. All of it is workers' text."""
    lines = []
    for item in evidence.candidates:
        if not item.change.edits and not item.said:
            continue
        shown = {
            "candidate": item.candidate,
            "name": excerpt(item.change.name),
            "title": excerpt(item.title, 100),
            "said": excerpt(item.said, 600),
            "diff": [excerpt(line, 160) for line in item.change.excerpt()],
        }
        lines.append(data({key: value for key, value in shown.items() if value}))
    return "\n".join(lines)


def _figures(item: CandidateSummary) -> dict[str, Any]:
    words = {"text", "findings", "failure_modes", "title", "said"}
    whole = item.model_dump(exclude={*words, "change", "runs"})
    whole["change"] = item.change.summary()
    whole["runs"] = [
        {**run.model_dump(exclude={"change", "curve"}), "change": run.change.summary()}
        for run in item.runs
    ]
    shown: dict[str, Any] = bounded(whole)
    return shown
