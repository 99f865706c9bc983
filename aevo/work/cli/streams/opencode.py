"""`opencode run --format json`: parts of messages, each told once it is whole.

{"type": "text", "part": {"text"}}
{"type": "tool_use", "part": {"callID", "tool", "state": {"status", "input", "output", "error"}}}
{"type": "error", "error": {"name", "data": {"message"}}}
"""

from typing import Any

from aevo.records.trace import Turn
from aevo.work.cli.streams.said import call, fields, ours, result, says, words


class OpenCode:
    """Reads the output of opencode."""

    plain = False

    def read(self, said: Any) -> list[Turn]:
        data = fields(said)
        part = fields(data, "part")
        if data.get("type") == "text":
            return says(words(part.get("text")))
        if data.get("type") == "tool_use" and not ours(part.get("tool")):
            state, id_ = fields(part, "state"), part.get("callID")
            failed = state.get("status") == "error"
            text = f"error: {words(state.get('error'))}" if failed else words(state.get("output"))
            return [*says("", call(id_, part.get("tool"), state.get("input"))), result(id_, text)]
        if data.get("type") == "error":
            error = fields(data, "error")
            return says(
                f"[error] {words(fields(error, 'data').get('message') or error.get('name'))}"
            )
        return []

    def end(self) -> list[Turn]:
        return []
