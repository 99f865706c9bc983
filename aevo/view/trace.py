"""A trace for people: `python -m aevo.trace show <candidate folder>`.

Turns, tool calls on one line, shortened results, jobs with phases and times, scores, retries, and
what it cost so far. A trace holds what a model and worker-written code said: control characters
are shown, never sent to the terminal.
"""

import argparse
import json
import re
import sys
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from aevo.errors import RecordError
from aevo.files import words
from aevo.files.documents import read_lines
from aevo.files.paths import Layout
from aevo.jobs.folder import JobFolder
from aevo.records.trace import Event, ToolCall, Usage, total
from aevo.text import cut

SHORT = 3  # lines of a text that are shown
WIDTH = 200  # characters of a line that are shown
STYLES = {
    "system": "dim",
    "user": "cyan",
    "assistant": "bold",
    "call": "yellow",
    "result": "dim",
    "job": "magenta",
    "score": "green",
    "note": "blue",
    "start": "dim",
    "finish": "bold",
}


@dataclass(frozen=True)
class Line:
    """One line of the view. `kind` decides its colour."""

    kind: str
    text: str
    time: float
    indent: int = 0


def clean(text: str) -> str:
    """Text without control, format and private characters, except line breaks: these are shown as
    escapes, so that no terminal obeys them."""
    return "".join(
        char
        if char == "\n" or not unicodedata.category(char).startswith(("C", "Zl", "Zp"))
        else "    "
        if char == "\t"
        else char.encode("unicode_escape").decode()
        for char in text.encode("utf-8", "replace").decode().replace("\r\n", "\n")
    )


def shortened(text: str, full: bool) -> list[str]:
    """The first lines of a cleaned text, cut to the width, and how much is left out."""
    lines = clean(text).rstrip("\n").split("\n")
    if full:
        return lines
    shown = [cut(line, WIDTH) for line in lines[:SHORT]]
    left = len(lines) - len(shown)
    return [*shown, f"… {left} more lines"] if left > 0 else shown


def view(events: list[Event], jobs: Path | None, full: bool, candidate: str = "") -> Iterator[Line]:
    """The lines of a trace.

    Args:
        jobs: the round's folder of jobs, for phases and times; None leaves them out.
        candidate: names the candidate's evaluation jobs among them.
    """
    evaluations = jobs / f"{candidate}-evaluate" if jobs is not None else None
    names: dict[str, str] = {}
    spent: list[Usage] = []
    number = 0
    for event in events:
        if event.turn is None:
            spent += [event.usage] if event.usage is not None else []
            if full or not _counted(event):
                yield from _happening(event, jobs, evaluations, full)
            continue
        turn = event.turn
        if turn.role == "tool":
            name = names.get(turn.tool_call_id or "", "?")
            yield from _block("result", f"-> {name}: {turn.content}", event.time, full, 2)
            continue
        if turn.role == "assistant":
            number += 1
            spent += [event.usage] if event.usage is not None else []
            yield Line("assistant", f"turn {number}{_cost(spent)}", event.time)
            if turn.content.strip():
                yield from _block("assistant", turn.content, event.time, full, 1)
        else:
            yield from _block(turn.role, f"{turn.role}: {turn.content}", event.time, full, 0)
        for call in turn.tool_calls:
            names[call.id] = call.name
            yield from _block("call", _call(call), event.time, full, 1)
    yield Line("finish", f"{number} turns{_cost(spent)}", events[-1].time if events else 0.0)


def _counted(event: Event) -> bool:
    """True for what an agent of others did that only its costs tell of."""
    return (event.usage is not None and "model_call" in event.data) or "poll" in event.data


def _cost(spent: list[Usage]) -> str:
    dollars = total(usage.dollars for usage in spent)
    price = ", dollars unknown" if dollars is None else f", ${dollars:.4f}" if dollars else ""
    return (
        f", {sum(usage.tokens_in for usage in spent)} tokens in, "
        f"{sum(usage.tokens_out for usage in spent)} out so far{price}"
    )


def _call(call: ToolCall) -> str:
    arguments = ", ".join(
        f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in call.arguments.items()
    )
    return f"{call.name}({arguments})"


def _block(kind: str, text: str, when: float, full: bool, indent: int) -> Iterator[Line]:
    for place, line in enumerate(shortened(text, full)):
        shown = words.clean(line, len(line) + 1)
        yield Line(kind, shown, when, indent + (1 if place else 0))


def _happening(
    event: Event, jobs: Path | None, evaluations: Path | None, full: bool
) -> Iterator[Line]:
    data, kind = event.data, str(event.kind)
    if kind == "score":
        text = _scores(data)
        if evaluations is not None:
            text += _phases(evaluations.with_name(f"{evaluations.name}-{data.get('run')}"))
        yield from _block("score", text, event.time, full, 1)
        return
    if kind == "note" and "retry" in data:
        text = (
            f"retry {data.get('trial')} after {data['retry']}, waited "
            f"{data.get('wait_s')} s: {data.get('text', '')}"
        )
        yield from _block("note", text, event.time, full, 1)
        return
    pairs = ", ".join(f"{key}={value}" for key, value in data.items())
    name = data.get("job")
    if kind == "job" and jobs is not None and isinstance(name, str) and _plain(name):
        pairs += _phases(jobs / name)
    yield from _block(kind, f"{kind}: {pairs}", event.time, full, 1 if kind != "finish" else 0)


def _plain(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None


def _scores(data: dict[str, Any]) -> str:
    scores = data.get("scores")
    found = []
    for name, score in scores.items() if isinstance(scores, dict) else ():
        dev = score.get("dev") if isinstance(score, dict) else None
        shown = (
            f"{dev:.4f}"
            if isinstance(dev, float | int)
            else str(score.get("error"))
            if isinstance(score, dict)
            else "?"
        )
        found.append(f"{name} {shown}" + (" (selected)" if name == data.get("selected") else ""))
    return f"score of run {data.get('run')}: {', '.join(found)}"


def _phases(folder: Path) -> str:
    """How long each attempt of a job waited and ran, and how it ended."""
    job, found = JobFolder(folder), []
    lines = job.lines()
    for number in sorted({line.attempt for line in lines}):
        mine = [line for line in lines if line.attempt == number]
        begun = next((line.time for line in mine if line.event == "started"), None)
        ended = job.ended(number)
        words = [f"attempt {number}"]
        if begun is not None:
            words.append(f"waited {max(0.0, begun - mine[0].time):.1f} s")
        if ended is None:
            words.append("no end on record")
        else:
            words.append(f"ran {ended.seconds:.1f} s")
            words.append("ok" if ended.exit_code == 0 else ended.message)
        found.append(", ".join(words))
    return "; ".join(["", *found])


def candidate_folder(path: Path, number: int | None, name: str | None) -> Path:
    """The candidate's folder: `path` itself, or that of a campaign's round and candidate.

    Raises:
        RecordError: there is none; names those there are.
    """
    if number is None and name is None:
        if (path / "trace.jsonl").is_file():
            return path
        there = sorted(str(item.parent) for item in _traces(path))
        raise RecordError(
            f"{path} has no trace.jsonl",
            f"give one of: {', '.join(there[:40])}"
            if there
            else "give a candidate's folder, or a campaign's with --round, --candidate",
        )
    layout = Layout(path)
    numbers = sorted(
        int(item.name[6:]) for item in path.glob("round-[0-9]*") if item.name[6:].isdigit()
    )
    chosen = numbers[-1] if number is None and numbers else number
    if chosen is None or chosen not in numbers:
        raise RecordError(
            f"{path} has no round {number}", f"rounds: {', '.join(map(str, numbers)) or 'none'}"
        )
    root = layout.round(chosen).root
    names = sorted(item.parent.name for item in root.glob("*/trace.jsonl"))
    if name not in names:
        raise RecordError(
            f"round {chosen} of {path} has no candidate {name or '(none named)'}",
            f"candidates: {', '.join(names) or 'none yet'}",
        )
    return root / str(name)


def _traces(path: Path) -> list[Path]:
    return [*path.glob("*/trace.jsonl"), *path.glob("round-*/*/trace.jsonl")]


def show(folder: Path, full: bool, as_json: bool) -> None:
    """Prints the trace of a candidate's folder."""
    events = read_lines(Event, folder / "trace.jsonl")
    jobs = folder.resolve().parent / "jobs"
    lines = view(events, jobs if jobs.is_dir() else None, full, folder.resolve().name)
    if as_json:
        for line in lines:
            print(json.dumps({"time": line.time, "kind": line.kind, "text": line.text}))
        return
    # Plain text is never wrapped: one line of the view is one line of a file.
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=not sys.stdout.isatty())
    begun = events[0].time if events else time.time()
    for line in lines:
        head = f"{max(0.0, line.time - begun):8.1f}s  {'  ' * line.indent}"
        console.print(Text(head, style="dim") + Text(line.text, STYLES.get(line.kind, "")))


def main(arguments: list[str]) -> None:
    """The command line.

    Raises:
        RecordError: there is no such candidate, or its trace is corrupt.
    """
    parser = argparse.ArgumentParser(
        prog="python -m aevo.trace",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    action = actions.add_parser("show", help="read a trace")
    action.add_argument("path", type=Path, help="folder of a candidate, or of a campaign")
    action.add_argument("--round", type=int, help="round of the campaign; default the last")
    action.add_argument("--candidate", help="c00, c01, …")
    action.add_argument("--full", action="store_true", help="leave nothing out")
    action.add_argument("--json", action="store_true", help="one JSON object a line")
    given = parser.parse_args(arguments)
    show(candidate_folder(given.path, given.round, given.candidate), given.full, given.json)
