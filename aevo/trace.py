"""Writing and reading one candidate's trace (records in `aevo.records.trace`)."""

import time
from pathlib import Path
from typing import Any, Literal

from aevo.records.io import append_line, read_lines
from aevo.records.trace import Event, Turn, Usage


class Trace:
    """The append-only trace at `path`, cached in memory; one writer at a time (the worker job)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events = read_lines(Event, path)

    def turns(self) -> list[Turn]:
        """The conversation so far."""
        return [event.turn for event in self.events if event.turn is not None]

    def started(self) -> float:
        """Unix time of the first event; now if there is none."""
        return self.events[0].time if self.events else time.time()

    def usage(self) -> Usage:
        """Sum over all model calls, also those before a restart."""
        used = [event.usage for event in self.events if event.usage is not None]
        return Usage(
            tokens_in=sum(item.tokens_in for item in used),
            tokens_out=sum(item.tokens_out for item in used),
            dollars=sum(item.dollars for item in used),
        )

    def message(self, turn: Turn, usage: Usage | None = None) -> None:
        """Appends one message of the conversation."""
        self._append("message", turn=turn, usage=usage)

    def note(self, kind: Literal["start", "job", "score", "finish", "note"], **data: Any) -> None:
        """Appends an event that is not part of the conversation; once per distinct content."""
        if not any(event.kind == kind and event.data == data for event in self.events):
            self._append(kind, data=data)

    def spend(self, usage: Usage | None, **data: Any) -> None:
        """Appends a note of something that cost tokens and is no part of the conversation."""
        self._append("note", usage=usage, data=data)

    def _append(self, kind: Any, **fields: Any) -> None:
        event = Event(seq=len(self.events), time=time.time(), kind=kind, **fields)
        append_line(self.path, event)
        self.events.append(event)


if __name__ == "__main__":
    from aevo import cli, traceview

    cli.run(traceview.main)
