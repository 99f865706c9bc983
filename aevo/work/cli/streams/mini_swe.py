"""mini-swe-agent: its output is for people; its trajectory file (`mini -o FILE`) is read instead,
whenever it has changed.

    {"messages": [{"role": "assistant", "content", "tool_calls": [{"id", "function": {"name",
     "arguments"}}]}, {"role": "tool", "tool_call_id", "content"}, {"role": "exit", "content"}]}
"""

import json
from typing import Any

from aevo.records.trace import ToolCall, Turn
from aevo.work.cli.streams.said import call, fields, result, says, words


class MiniSwe:
    """Reads the trajectory of mini-swe-agent."""

    plain = False

    def __init__(self) -> None:
        self.seen = 0  # messages

    def read(self, said: Any) -> list[Turn]:
        messages = fields(said).get("messages")
        new = messages[self.seen :] if isinstance(messages, list) else []
        self.seen += len(new)
        found: list[Turn] = []
        for message in new:
            data = fields(message)
            if data.get("role") == "assistant":
                calls = data.get("tool_calls")
                made = [_call(item) for item in calls] if isinstance(calls, list) else []
                found += says(words(data.get("content")), *made)
            elif data.get("role") == "tool":
                found.append(result(data.get("tool_call_id"), words(data.get("content"))))
            elif data.get("role") == "exit" and words(data.get("content")):
                found += says(f"[exit] {words(data.get('content'))}")
        return found

    def end(self) -> list[Turn]:
        return []


def _call(item: Any) -> ToolCall:
    function = fields(item, "function")
    given = function.get("arguments")
    try:
        arguments = json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError):
        arguments = given
    return call(fields(item).get("id"), function.get("name"), arguments)
