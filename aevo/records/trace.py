"""trace.jsonl: what a worker did, append-only; its recovery source after a crash."""

from typing import Any, Literal

from aevo.records.io import Part


class ToolCall(Part):
    """A model's request to run a tool; `arguments` as parsed from its JSON."""

    id: str
    name: str
    arguments: dict[str, Any]


class Turn(Part):
    """One message of the conversation, in the roles of the chat-completions protocol."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None


class Usage(Part):
    """Tokens and dollars of one model call."""

    tokens_in: int = 0
    tokens_out: int = 0
    dollars: float = 0.0


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
