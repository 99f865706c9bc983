"""What an endpoint's answer says of its cost, in any of the four protocols, whole or as a stream.

Tokens that were read from or written to a cache are part of what went in; thoughts are part of what
came out, as in `aevo.llm.tokens`, which makes dollars of it.
"""

import json
from typing import Any

from aevo.files.plain import FormError, Limits, from_json

LONGEST = 32 << 20  # bytes of a line that is looked at; a whole answer is one line, or many
LIMITS = Limits(bytes=LONGEST, nodes=2_000_000, depth=100, text=LONGEST, key=4096)


class Told:
    """Collects usage from the lines of one answer."""

    def __init__(self) -> None:
        self.usage: dict[str, Any] = {}
        self.characters = 0  # that came back, for answers that tell nothing
        self._lines: list[bytes] = []
        self._size = 0

    def line(self, line: bytes) -> None:
        """One line of the answer, as it came."""
        self.characters += len(line)
        text = line.strip()
        if text.startswith(b"data:"):
            self._read(text.removeprefix(b"data:").strip())
        elif text and not text.startswith((b"event:", b"id:", b":")):
            self._size += len(line)
            if self._size <= LONGEST:
                self._lines.append(line)

    def end(self) -> None:
        """No more lines: an answer that was no stream of events is read whole."""
        if self._lines and self._size <= LONGEST:
            self._read(b"".join(self._lines))

    def _read(self, text: bytes) -> None:
        if not any(word in text for word in (b"usage", b"Usage")):
            return
        try:
            data = from_json(text, "answer", LIMITS, nan=True)
        except FormError:
            return
        for item in data if isinstance(data, list) else [data]:
            if isinstance(item, dict):
                self.usage |= usage_in(item)


def usage_in(item: dict[str, Any]) -> dict[str, Any]:
    """The usage of an answer, or of an event of one, under the names of chat completions; what is
    not told is missing."""
    if isinstance(item.get("usageMetadata"), dict):
        return _gemini(item["usageMetadata"])
    for name in ("response", "message"):  # events of Responses and of Messages
        if isinstance(item.get(name), dict) and isinstance(item[name].get("usage"), dict):
            item = item[name]
    usage = item.get("usage")
    if not isinstance(usage, dict):
        return {}
    if "prompt_tokens" in usage or "completion_tokens" in usage:
        return usage
    return _messages(usage) if _is_messages(usage) else _responses(usage)


def _is_messages(usage: dict[str, Any]) -> bool:
    return "input_tokens_details" not in usage and "total_tokens" not in usage


def _responses(usage: dict[str, Any]) -> dict[str, Any]:
    found = {"prompt_tokens": usage.get("input_tokens"), **_out(usage)}
    details = usage.get("input_tokens_details")
    return found | ({"prompt_tokens_details": details} if details else {})


def _messages(usage: dict[str, Any]) -> dict[str, Any]:
    """Anthropic counts cached tokens beside the others; the end of a stream tells only what came
    out, unless it tells all."""
    found = _out(usage)
    if isinstance(usage.get("input_tokens"), int):
        parts = [
            usage.get(name)
            for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        ]
        found["prompt_tokens"] = sum(part for part in parts if isinstance(part, int))
        cached = usage.get("cache_read_input_tokens")
        if isinstance(cached, int):
            found["cached_tokens"] = cached
    return found


def _out(usage: dict[str, Any]) -> dict[str, Any]:
    found = {"completion_tokens": usage.get("output_tokens"), "cost": usage.get("cost")}
    return {name: value for name, value in found.items() if value is not None}


def _gemini(usage: dict[str, Any]) -> dict[str, Any]:
    out = [usage.get(name) for name in ("candidatesTokenCount", "thoughtsTokenCount")]
    found = {
        "prompt_tokens": usage.get("promptTokenCount"),
        "completion_tokens": sum(part for part in out if isinstance(part, int)),
        "cached_tokens": usage.get("cachedContentTokenCount"),
    }
    return {name: value for name, value in found.items() if value is not None}


def parsed(body: bytes) -> Any:
    """The JSON value of a request's body; None if it is none.

    Written by the agent, whom a `RecursionError` of ours must not help.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
