"""The discovery log: discoveries.jsonl, append-only, and its Markdown rendering."""

from collections.abc import Sequence

from aevo.files import documents, words
from aevo.files.paths import Layout
from aevo.records.discovery import Discovery

TITLES = {
    "divergence": "Dev and leaderboard",
    "mode": "Search mode",
    "promotion": "Promotions",
    "noise": "Noise rules",
    "demotion": "Left the standing recipe",
    "rotation": "Axis rotation",
    "dead_end": "Dead ends",
    "summary": "Round by round",
}


def append(layout: Layout, entries: Sequence[Discovery]) -> None:
    """Appends what is not yet in the log (by id), then renders discoveries.md.

    One writer at a time: only the meta job of the current round calls this.
    """
    known = {entry.id for entry in read(layout)}
    for entry in entries:
        if entry.id not in known:
            documents.append_line(layout.discoveries, entry)
            known.add(entry.id)
    documents.write_text(layout.discoveries_text, render(read(layout)))


def read(layout: Layout) -> list[Discovery]:
    """All discoveries in the order they were made; a torn last line is skipped."""
    return documents.read_lines(Discovery, layout.discoveries)


def render(entries: Sequence[Discovery]) -> str:
    """The log as Markdown, consolidated by kind."""
    lines = ["# Discoveries"]
    for kind, title in TITLES.items():
        own = [entry for entry in entries if entry.kind == kind]
        if own:
            lines += ["", f"## {title}", ""]
        for entry in own:
            candidate = f", {entry.provenance.candidate}" if entry.provenance.candidate else ""
            source = f"round {entry.provenance.round}{candidate}: {entry.provenance.figure}"
            lines.append(f"- Round {entry.round}: {entry.text} [{source}]")
    return "\n".join(map(words.markdown, lines)) + "\n"
