"""`openhands --headless --json`: events of its agent's conversation.

{"kind": "ActionEvent", "thought": [...], "tool_name", "tool_call_id", "action": {...}}
{"kind": "ObservationEvent", "tool_call_id", "observation": {"content": [...]}}
{"kind": "MessageEvent", "source": "agent", "llm_message": {"content": [...]}}
{"kind": "AgentErrorEvent", "tool_call_id", "error"}
"""

from typing import Any

from aevo.files.plain import FormError, from_json
from aevo.records.trace import Turn
from aevo.work.cli.streams.said import LINE, call, fields, result, says, words

# Of its tools only those of an MCP server carry this action; ours is the only server.
MCP_ACTION = "MCPToolAction"
MARKS = ("--JSON Event--",)


class OpenHands:
    """Reads the output of OpenHands, whose events may stand on one line or on several."""

    plain = False

    def __init__(self) -> None:
        self.hidden: set[str] = set()
        self.lines: list[str] = []

    def read(self, said: Any) -> list[Turn]:
        if isinstance(said, dict):
            return self._event(said)
        text = str(said)
        if text.strip() in MARKS:
            self.lines = []
            return []
        self.lines = [*self.lines[-20_000:], text]
        if not text.startswith("}"):
            return []
        lines, self.lines = self.lines, []
        try:
            return self._event(fields(from_json("".join(lines).encode(), "event", LINE, nan=True)))
        except FormError:
            return []

    def _event(self, data: dict[str, Any]) -> list[Turn]:
        kind, id_ = data.get("kind"), data.get("tool_call_id")
        if kind == "MessageEvent" and data.get("source") == "agent":
            return says(words(fields(data, "llm_message").get("content")))
        if kind == "ActionEvent":
            thought, action = words(data.get("thought")), fields(data, "action")
            if action.get("kind") == MCP_ACTION:
                self.hidden.add(str(id_))
                return says(thought)
            given = {name: value for name, value in action.items() if name != "kind"}
            return says(thought, call(id_, data.get("tool_name"), given))
        if kind == "ObservationEvent" and str(id_) not in self.hidden:
            return [result(id_, words(fields(data, "observation").get("content")))]
        if kind == "AgentErrorEvent":
            return [result(id_, f"error: {words(data.get('error'))}")]
        return []

    def end(self) -> list[Turn]:
        return []
