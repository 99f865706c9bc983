"""`codex exec --json`: events of a thread; an item is told whole when it is completed.

{"type": "item.completed", "item": {"id", "type": "agent_message", "text"}}
{"type": "item.completed", "item": {"type": "command_execution", "command",
                                    "aggregated_output", "exit_code"}}
{"type": "item.completed", "item": {"type": "mcp_tool_call", "server", "tool", ...}}
{"type": "turn.failed", "error": {"message"}}
"""

from typing import Any

from aevo.records.trace import Turn
from aevo.work.cli.streams.said import call, fields, result, says, words

OURS = "aevo"


class Codex:
    """Reads the output of Codex."""

    plain = False

    def read(self, said: Any) -> list[Turn]:
        data = fields(said)
        kind = data.get("type")
        if kind in ("turn.failed", "error"):
            text = fields(data, "error").get("message") or data.get("message")
            return says(f"[error] {words(text)}")
        return self._item(fields(data, "item")) if kind == "item.completed" else []

    def _item(self, item: dict[str, Any]) -> list[Turn]:
        kind, id_ = item.get("type"), item.get("id")
        if kind == "agent_message":
            return says(words(item.get("text")))
        if kind == "command_execution":
            ended = f"exit code {item.get('exit_code')}\n{words(item.get('aggregated_output'))}"
            return [*says("", call(id_, "shell", {"command": item.get("command")})),
                    result(id_, ended)]  # fmt: skip
        if kind == "file_change":
            changes = {"changes": item.get("changes")}
            return [
                *says("", call(id_, "apply_patch", changes)),
                result(id_, str(item.get("status"))),
            ]
        if kind == "mcp_tool_call" and item.get("server") != OURS:
            name = f"{item.get('server')}.{item.get('tool')}"
            return [
                *says("", call(id_, name, item.get("arguments"))),
                result(id_, words(fields(item, "result").get("content"))),
            ]
        if kind == "error":
            return says(f"[error] {words(item.get('message'))}")
        return []

    def end(self) -> list[Turn]:
        return []
