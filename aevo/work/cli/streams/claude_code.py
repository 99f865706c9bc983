"""`claude --print --output-format stream-json --verbose`: messages of the Messages protocol.

{"type": "assistant", "message": {"content": [{"type": "text" | "tool_use", ...}]}}
{"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id", "content"}]}}
{"type": "result", "is_error": true, "result": "..."}
"""

from typing import Any

from aevo.records.trace import Turn
from aevo.work.cli.streams.said import call, fields, ours, result, says, words


class ClaudeCode:
    """Reads the output of Claude Code."""

    plain = False

    def __init__(self) -> None:
        self.hidden: set[str] = set()  # calls of the worker's tools

    def read(self, said: Any) -> list[Turn]:
        data = fields(said)
        content = fields(data, "message").get("content")
        parts = (
            [part for part in content if isinstance(part, dict)]
            if isinstance(content, list)
            else []
        )
        if data.get("type") == "assistant":
            return self._assistant(parts)
        if data.get("type") == "user":
            return [
                result(part.get("tool_use_id"), words(part.get("content")))
                for part in parts
                if part.get("type") == "tool_result"
                and str(part.get("tool_use_id")) not in self.hidden
            ]
        if data.get("type") == "result" and data.get("is_error"):
            return says(f"[{data.get('subtype', 'error')}] {words(data.get('result'))}")
        return []

    def _assistant(self, parts: list[dict[str, Any]]) -> list[Turn]:
        calls = []
        for part in parts:
            if part.get("type") != "tool_use":
                continue
            if ours(part.get("name")):
                self.hidden.add(str(part.get("id")))
            else:
                calls.append(call(part.get("id"), part.get("name"), part.get("input")))
        return says(words([part for part in parts if part.get("type") == "text"]), *calls)

    def end(self) -> list[Turn]:
        return []
