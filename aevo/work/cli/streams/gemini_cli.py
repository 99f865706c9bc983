"""`gemini --output-format stream-json`: messages in pieces, calls and results one an event.

{"type": "message", "role": "assistant", "content": "...", "delta": true}
{"type": "tool_use", "tool_name", "tool_id", "parameters"}
{"type": "tool_result", "tool_id", "status", "output", "error": {"message"}}
{"type": "error", "severity", "message"}
"""

from typing import Any

from aevo.records.trace import Turn
from aevo.work.cli.streams.said import call, fields, ours, result, says, words


class GeminiCli:
    """Reads the output of Gemini CLI."""

    plain = False

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.hidden: set[str] = set()

    def read(self, said: Any) -> list[Turn]:
        data = fields(said)
        kind = data.get("type")
        if kind == "message":
            if data.get("role") == "assistant":
                self.pieces.append(words(data.get("content")))
            return []
        if kind == "tool_use":
            return self._call(data)
        if kind == "tool_result" and str(data.get("tool_id")) not in self.hidden:
            error = words(fields(data, "error").get("message"))
            text = f"error: {error}" if error else words(data.get("output"))
            return [*self.end(), result(data.get("tool_id"), text)]
        if kind == "error":
            return [*self.end(), *says(f"[error] {words(data.get('message'))}")]
        return self.end() if kind == "result" else []

    def _call(self, data: dict[str, Any]) -> list[Turn]:
        text, self.pieces = "".join(self.pieces), []
        if ours(data.get("tool_name")):
            self.hidden.add(str(data.get("tool_id")))
            return says(text)
        made = call(data.get("tool_id"), data.get("tool_name"), data.get("parameters"))
        return says(text, made)

    def end(self) -> list[Turn]:
        text, self.pieces = "".join(self.pieces), []
        return says(text)
