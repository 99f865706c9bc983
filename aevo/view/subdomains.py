"""Accuracy on dev by sub-domain, where the items say what theirs is (`meta.subdomain`).

Read from the items in the vault and the trusted evaluation's answers, for the report alone: no
worker sees it, and nothing is decided by it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aevo.errors import RecordError
from aevo.files.documents import read, read_lines
from aevo.files.paths import Layout
from aevo.records.evidence import CandidateSummary
from aevo.records.manifest import Manifest
from aevo.records.scores import DomainScore, Prediction
from aevo.view.trajectory import RoundStory


@dataclass(frozen=True)
class Row:
    """One sub-domain: its items, and the accuracies of the round's anchor and of its best."""

    name: str
    n: int
    anchor: float | None
    best: float | None


def by_round(layout: Layout, stories: Iterable[RoundStory]) -> dict[int, list[Row]]:
    """Each round's sub-domains by name; none where items have none or nobody was scored."""
    names = named(layout.dev_items)
    return {story.number: _rows(layout, story, names) if names else [] for story in stories}


def _rows(layout: Layout, story: RoundStory, names: Mapping[str, str]) -> list[Row]:
    scored = [_scores(layout, story.number, one, names) for one in (story.anchor, story.best)]
    known = sorted({name for found in scored for name in found})
    return [
        Row(
            name,
            next(f[name].n for f in scored if name in f),
            *(_accuracy(f, name) for f in scored),
        )
        for name in known
    ]


def named(items: Path) -> dict[str, str]:
    """Sub-domain of each item of a file that has one."""
    if not items.is_file():
        return {}
    found = {}
    for line in items.read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        if name := (item.get("meta") or {}).get("subdomain"):
            found[str(item["id"])] = str(name)
    return found


def _scores(
    layout: Layout, number: int, summary: CandidateSummary | None, names: Mapping[str, str]
) -> dict[str, DomainScore]:
    """By sub-domain, of the checkpoint that a candidate stands by."""
    if summary is None or summary.dev is None:
        return {}
    here = layout.round(number).candidate(summary.candidate)
    hits: dict[str, list[bool]] = {}
    try:
        chosen = read(Manifest, here.manifest).selected
        if chosen is None:
            return {}
        path = here.run(chosen.run).predictions(chosen.checkpoint)
        for line in read_lines(Prediction, path):
            if line.id in names:
                hits.setdefault(names[line.id], []).append(line.correct)
    except RecordError:  # what is missing or corrupt the evidence has named
        return {}
    return {
        name: DomainScore(accuracy=sum(own) / len(own), n=len(own)) for name, own in hits.items()
    }


def _accuracy(found: Mapping[str, DomainScore], name: str) -> float | None:
    return found[name].accuracy if name in found else None
