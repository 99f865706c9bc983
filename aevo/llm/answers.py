"""Reading what an endpoint answers: a whole body or a stream of chunks, one result for both.

Servers differ in what they leave out; only what makes an answer unusable is an error.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aevo.llm.repair import RawCall, parse


class BadAnswer(Exception):
    """An answer that is not a chat completion. The text is the server's: scrub it."""


class Unfinished(BadAnswer):
    """A stream that ended before the answer did."""


class ErrorAnswer(Exception):
    """An answer that began well and holds an error object."""

    def __init__(self, error: Any) -> None:
        super().__init__("the answer holds an error")
        self.error = error


@dataclass
class Completion:
    """One answer: what it says, calls, and what it thought."""

    content: str = ""
    reasoning: str = ""
    calls: list[RawCall] = field(default_factory=list)
    finish: str | None = None
    usage: Any = None

    @property
    def characters(self) -> int:
        """Length of all that was generated."""
        calls = sum(len(call.name) + len(str(call.arguments)) for call in self.calls)
        return len(self.content) + len(self.reasoning) + calls


def from_body(data: Any) -> Completion:
    """A complete answer, as parsed from JSON.

    Raises:
        BadAnswer, ErrorAnswer
    """
    choice = _choice(data)
    message = choice.get("message") if choice else None
    if not isinstance(message, dict):
        raise BadAnswer(f"the answer holds no message: {str(data)[:200]}")
    return apart(Completion(
        content=_text(message.get("content")) or _text(message.get("refusal")),
        reasoning=_reasoning(message),
        calls=[_raw_call(item) for item in _items(message.get("tool_calls"))],
        finish=_text(choice.get("finish_reason")) or None if choice else None,
        usage=data.get("usage"),
    ))


def from_chunks(chunks: Iterable[Any]) -> Completion:
    """A streamed answer, put together.

    Raises:
        BadAnswer, ErrorAnswer
        Unfinished: no finish reason came: the connection was lost, or the server gave up.
    """
    whole = Completion()
    calls: list[dict[str, Any]] = []
    current: dict[int, dict[str, Any]] = {}
    for data in chunks:
        choice = _choice(data)
        if data.get("usage"):
            whole.usage = data["usage"]
        if choice is None:
            continue
        delta = _object(choice.get("delta"))
        whole.content += _text(delta.get("content")) or _text(delta.get("refusal"))
        whole.reasoning += _reasoning(delta)
        for item in _items(delta.get("tool_calls")):
            _add_piece(item, calls, current)
        whole.finish = _text(choice.get("finish_reason")) or whole.finish
    if whole.finish is None:
        raise Unfinished("the stream ended before the answer did")
    whole.calls = [RawCall(call["id"], call["name"], call["arguments"]) for call in calls]
    return apart(whole)


def apart(completion: Completion) -> Completion:
    """Moves `<think>…</think>` at the start of the content to the reasoning."""
    text = completion.content
    thoughts = [completion.reasoning] if completion.reasoning else []
    while opened := re.match(r"\s*<think>(.*?)(?:</think>|\Z)", text, re.DOTALL):
        thoughts.append(opened.group(1).strip())
        text = text[opened.end():]
    if "</think>" in text and "<think>" not in text:  # the template had opened it in the prompt
        thought, _, text = text.partition("</think>")
        thoughts.append(thought.strip())
    completion.reasoning = "\n".join(thoughts)
    completion.content = text.strip()
    return completion


def _choice(data: Any) -> dict[str, Any] | None:
    if not isinstance(data, dict):
        raise BadAnswer(f"the answer is no JSON object: {str(data)[:200]}")
    if data.get("error"):
        raise ErrorAnswer(data["error"])
    choices = _items(data.get("choices"))
    return choices[0] if choices else None


def _add_piece(item: dict[str, Any], calls: list[dict[str, Any]],
               current: dict[int, dict[str, Any]]) -> None:
    """Adds a piece of a call. Some servers give each call a new id under the same index, some
    repeat id or name with every piece, some send no index or no id at all."""
    index = item.get("index") if isinstance(item.get("index"), int) else None
    key = index if index is not None else max(len(calls) - 1, 0)
    piece = _raw_call(item)
    call = current.get(key)
    another = call is not None and (
        bool(piece.id and call["id"] and piece.id != call["id"])
        or bool(piece.name and call["arguments"] and parse(call["arguments"])[0] is not None)
    )
    if call is None or another:
        call = {"id": "", "name": "", "arguments": ""}
        calls.append(call)
        current[key if index is not None else len(calls) - 1] = call
    call["id"] = call["id"] or piece.id
    if piece.name and piece.name != call["name"]:
        call["name"] += piece.name
    if isinstance(piece.arguments, str) and isinstance(call["arguments"], str):
        call["arguments"] += piece.arguments
    elif piece.arguments is not None:
        call["arguments"] = piece.arguments


def _raw_call(item: dict[str, Any]) -> RawCall:
    function = _object(item.get("function"))
    return RawCall(_text(item.get("id")), _text(function.get("name")), function.get("arguments"))


def _reasoning(message: dict[str, Any]) -> str:
    return _text(message.get("reasoning_content")) or _text(message.get("reasoning"))


def _items(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    """Text of a field that may be a string, a list of text parts, or anything else."""
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in _items(value))
    return value if isinstance(value, str) else ""
