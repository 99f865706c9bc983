"""What the readers of all agents share."""

from typing import Any, Protocol

from aevo.files.plain import FormError, Limits, from_json
from aevo.records.trace import ToolCall, Turn
from aevo.work.tools import shorten

OWN = "own"
SERVERS = ("mcp__aevo__", "mcp_aevo_", "aevo__", "aevo_")  # how agents name the worker's tools
LINE = Limits(bytes=4 << 20, nodes=200_000, depth=64, text=4 << 20, key=2000)
MOST_TURNS = 5000  # of one session


class Reader(Protocol):
    """Reads one agent's output, of which each line is a JSON value, or a text that is none; for a
    `plain` one each line is a text."""

    plain: bool

    def read(self, said: Any) -> list[Turn]:
        """The turns that a line makes whole."""

    def end(self) -> list[Turn]:
        """The turns that no more lines will make whole."""


class Parser:
    """Bounds what a reader finds, and makes its calls the session's own."""

    def __init__(self, reader: Reader, session: int) -> None:
        self.reader, self.session, self.made = reader, session, 0

    def feed(self, line: bytes) -> list[Turn]:
        """The turns that a line of output makes whole."""
        if not line.strip():
            return []
        return self._bounded(self.reader.read(self._said(line)))

    def _said(self, line: bytes) -> Any:
        try:
            if not self.reader.plain:
                return from_json(line, "line", LINE, nan=True)
        except FormError:
            pass
        return line.decode(errors="replace")

    def end(self) -> list[Turn]:
        """The turns that are left."""
        return self._bounded(self.reader.end())

    def _bounded(self, turns: list[Turn]) -> list[Turn]:
        turns = turns[: max(0, MOST_TURNS - self.made)]
        self.made += len(turns)
        return [self._own(turn) for turn in turns]

    def _own(self, turn: Turn) -> Turn:
        return Turn(
            role=turn.role,
            content=shorten(turn.content),
            tool_calls=[
                ToolCall(
                    id=self._id(call.id),
                    name=f"{OWN}:{call.name}"[:100],
                    arguments={key: _short(value) for key, value in call.arguments.items()},
                )
                for call in turn.tool_calls
            ],
            tool_call_id=None if turn.tool_call_id is None else self._id(turn.tool_call_id),
        )

    def _id(self, given: str) -> str:
        return f"{OWN}-{self.session}-{given}"[:200]


def _short(value: Any) -> Any:
    return shorten(value) if isinstance(value, str) else value


def ours(name: Any) -> bool:
    """True for the name of a worker's tool as agents show it."""
    return isinstance(name, str) and name.startswith(SERVERS)


def words(value: Any) -> str:
    """The text of a message: a string, or parts of which some have a text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(filter(None, (words(part) for part in value)))
    if isinstance(value, dict):
        found = value.get("text", value.get("content", ""))
        return words(found) if isinstance(found, str | list) else ""
    return ""


def fields(value: Any, *path: str) -> dict[str, Any]:
    """The object at a path; empty where there is none."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def call(id_: Any, name: Any, arguments: Any) -> ToolCall:
    """A call of the agent's own tools."""
    given = arguments if isinstance(arguments, dict) else {"input": str(arguments)}
    return ToolCall(id=str(id_), name=str(name), arguments=given)


def says(text: str, *calls: ToolCall) -> list[Turn]:
    """A turn of the agent's; none if it says nothing and calls nothing."""
    if not text.strip() and not calls:
        return []
    return [Turn(role="assistant", content=text, tool_calls=list(calls))]


def result(id_: Any, text: str) -> Turn:
    """The answer to a call."""
    return Turn(role="tool", content=text, tool_call_id=str(id_))
