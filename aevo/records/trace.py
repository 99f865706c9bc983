"""trace.jsonl: what a worker did, append-only; its recovery source after a crash."""

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from aevo.files.documents import Part, append_line, read_lines
from aevo.files.words import Whole, WholeMap


class ToolCall(Part):
    """A model's request to run a tool; `arguments` as parsed from its JSON."""

    id: Whole
    name: Whole
    arguments: WholeMap


class Turn(Part):
    """One message of the conversation, in the roles of the chat-completions protocol."""

    role: Literal["system", "user", "assistant", "tool"]
    content: Whole
    tool_calls: list[ToolCall] = []
    tool_call_id: Whole | None = None


class Usage(Part):
    """Tokens and dollars of one model call, or of several. Dollars are None where a call cost what
    nobody told: an unknown price is not zero."""

    tokens_in: int = 0
    tokens_out: int = 0
    dollars: float | None = 0.0


def total(dollars: Iterable[float | None]) -> float | None:
    """The sum, which is unknown where a part of it is."""
    parts = list(dollars)
    return None if None in parts else sum(part for part in parts if part is not None)


class Event(Part):
    """One line of the trace. `time` is Unix seconds; `data` depends on `kind`.

    `message` events rebuild the conversation; `start`, `job`, `score` and `finish` are for people
    and for accounting.
    """

    seq: int
    time: float
    kind: Literal["start", "message", "job", "score", "finish", "note"]
    turn: Turn | None = None
    usage: Usage | None = None
    data: dict[str, Any] = {}


class Trace:
    """The append-only trace at `path`, cached in memory; one writing process at a time (the worker
    job), whose threads may all write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self.events = read_lines(Event, path)

    def turns(self) -> list[Turn]:
        """The conversation so far."""
        return [event.turn for event in self.events if event.turn is not None]

    def answered(self, *tools: str) -> int:
        """Calls of these tools that have been answered with success."""
        turns = self.turns()
        ids = {call.id for turn in turns for call in turn.tool_calls if call.name in tools}
        return sum(
            turn.tool_call_id in ids and not turn.content.startswith("error:") for turn in turns
        )

    def model_calls(self) -> int:
        """How often a model was asked: by an agent of others as its proxy counted, else once a
        turn."""
        asked = sum("model_call" in event.data and event.usage is not None for event in self.events)
        return asked or sum(turn.role == "assistant" for turn in self.turns())

    def started(self) -> float:
        """Unix time of the first event; now if there is none."""
        return self.events[0].time if self.events else time.time()

    def usage(self) -> Usage:
        """Sum over all model calls, also those before a restart."""
        used = [event.usage for event in self.events if event.usage is not None]
        return Usage(
            tokens_in=sum(item.tokens_in for item in used),
            tokens_out=sum(item.tokens_out for item in used),
            dollars=total(item.dollars for item in used),
        )

    def known_dollars(self) -> float:
        """What is known to have been spent: a budget ends on it whatever else is unknown."""
        return sum(event.usage.dollars or 0.0 for event in self.events if event.usage is not None)

    def message(self, turn: Turn, usage: Usage | None = None) -> None:
        """Appends one message of the conversation."""
        self._append("message", turn=turn, usage=usage)

    def note(self, kind: Literal["start", "job", "score", "finish", "note"], **data: Any) -> None:
        """Appends an event that is not part of the conversation; once per distinct content."""
        with self._lock:
            if not any(event.kind == kind and event.data == data for event in self.events):
                self._append(kind, data=data)

    def spend(self, usage: Usage | None, **data: Any) -> None:
        """Appends a note of something that cost tokens and is no part of the conversation."""
        self._append("note", usage=usage, data=data)

    def _append(self, kind: Any, **fields: Any) -> None:
        with self._lock:
            event = Event(seq=len(self.events), time=time.time(), kind=kind, **fields)
            append_line(self.path, event)
            self.events.append(event)
