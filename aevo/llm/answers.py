"""Answers as servers and models really send them, made sound for the tool loop.

A whole body or a stream of chunks gives one result; only what makes an answer unusable is an error.

A call whose arguments are not a JSON object becomes a ToolCall with the one argument `MALFORMED`,
holding what was sent. Every tool refuses that argument, so the model reads an error and may send
the call again; `complaint` is a better text for the same purpose. It is bounded: `MAX_REPAIRS`
broken turns in a row, counted in the conversation itself, so also across a restart.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aevo.records.trace import ToolCall, Turn

MALFORMED = "__malformed__"
MAX_REPAIRS = 3
EMPTY = "[empty reply]"
CUT = "[cut off: the reply reached its token limit]"
LONGEST_RAW = 4000  # characters of a malformed call that are kept

_PIECE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[^\s"{}\[\]:,]+|\S', re.DOTALL)
_PYTHON = {"True": "true", "False": "false", "None": "null"}


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# strict=False: line breaks inside strings are common and harmless.
_DECODER = json.JSONDecoder(strict=False, parse_constant=_no_constant)


class BadAnswer(Exception):
    """An answer that is not a chat completion. The text is the server's: scrub it."""


class Unfinished(BadAnswer):
    """A stream that ended before the answer did."""


class ErrorAnswer(Exception):
    """An answer that began well and holds an error object."""

    def __init__(self, error: Any) -> None:
        super().__init__("the answer holds an error")
        self.error = error


class RawCall(NamedTuple):
    """A call as it came."""

    id: str
    name: str
    arguments: Any


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
    whole = Completion(usage=data.get("usage"))
    _add(whole, choice or {}, message)
    whole.calls = [_raw_call(item) for item in _items(message.get("tool_calls"))]
    return apart(whole)


def from_chunks(chunks: Iterable[Any]) -> Completion:
    """A streamed answer, put together.

    Not by the accumulation of `openai`: it takes servers at their word, which number calls badly.

    Raises:
        BadAnswer, ErrorAnswer
        Unfinished: no finish reason came: the connection was lost, or the server gave up.
    """
    whole = Completion()
    current: dict[int, int] = {}
    for data in chunks:
        choice = _choice(data) or {}
        whole.usage = data.get("usage") or whole.usage
        delta = _object(choice.get("delta"))
        _add(whole, choice, delta)
        for item in _items(delta.get("tool_calls")):
            _add_piece(item, whole.calls, current)
    if whole.finish is None:
        raise Unfinished("the stream ended before the answer did")
    return apart(whole)


def apart(completion: Completion) -> Completion:
    """Moves `<think>…</think>` at the start of the content to the reasoning."""
    text = completion.content
    thoughts = [completion.reasoning] if completion.reasoning else []
    while opened := re.match(r"\s*<think>(.*?)(?:</think>|\Z)", text, re.DOTALL):
        thoughts.append(opened.group(1).strip())
        text = text[opened.end() :]
    if "</think>" in text and "<think>" not in text:  # the template had opened it in the prompt
        thought, _, text = text.partition("</think>")
        thoughts.append(thought.strip())
    completion.reasoning = "\n".join(thoughts)
    completion.content = text.strip()
    return completion


def sound_calls(raw: list[RawCall], turns: list[Turn]) -> list[ToolCall]:
    """Calls with ids unique in the conversation and arguments that are an object.

    An id that is missing or was used before is replaced: the loop finds results by id.
    """
    used = {call.id for turn in turns for call in turn.tool_calls}
    number = sum(turn.role == "assistant" for turn in turns) + 1
    calls = []
    for place, call in enumerate(raw):
        given, serial = sound(call.id), place
        while not given or given in used:  # nine letters and digits: the strictest servers' form
            given = f"call{number % 1000:03d}{serial:02d}"
            serial += 1
        used.add(given)
        calls.append(
            ToolCall(
                id=given,
                name=sound(call.name).strip() or "unnamed",
                arguments=_arguments(call.arguments),
            )
        )
    return calls


def complaint(call: ToolCall) -> str | None:
    """What to answer to a malformed call; None if the call is sound."""
    if MALFORMED not in call.arguments:
        return None
    _, problem = parse(call.arguments[MALFORMED])
    return (
        f"error: the arguments of {call.name} are not a JSON object ({problem or 'unreadable'}); "
        "nothing was done. Send the call again, complete and with quotes and line breaks escaped; "
        "if it was cut off, in smaller pieces."
    )


def is_broken(turn: Turn, tools: Collection[str]) -> bool:
    """True for an assistant turn that is empty, or none of whose calls could be run."""
    if not turn.tool_calls:
        return turn.content in ("", EMPTY, CUT)
    return all(MALFORMED in call.arguments or call.name not in tools for call in turn.tool_calls)


def broken_in_a_row(turns: list[Turn], tools: Collection[str]) -> int:
    """How many of the last assistant turns are broken, without one that is not between them."""
    count = 0
    for turn in reversed(turns):
        if turn.role == "assistant":
            if not is_broken(turn, tools):
                break
            count += 1
    return count


def parse(text: Any) -> tuple[dict[str, Any] | None, str]:
    """The object that `text` holds, or None and what is wrong with it."""
    if text is None or (isinstance(text, str) and not text.strip()):
        return {}, ""  # how several servers send a call without arguments
    value = text
    if isinstance(text, str):
        fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)```\s*", text, re.DOTALL)
        try:
            value = _loads(fenced.group(1) if fenced else text)
            if isinstance(value, str):  # encoded twice
                value = _loads(value)
        except json.JSONDecodeError as error:
            return None, f"{error.msg} at character {error.pos}"
        except ValueError as error:
            return None, str(error)
        except RecursionError:
            return None, "nested too deeply"
    if not isinstance(value, dict):
        return None, f"it is a {type(value).__name__}"
    return value, ""


def sound(value: Any) -> Any:
    """The value with half surrogate pairs replaced, which no record could be written with."""
    return each_text(value, lambda text: text.encode("utf-8", "replace").decode("utf-8"))


def each_text(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with every text in it changed, keys too."""
    if isinstance(value, dict):
        return {each_text(key, change): each_text(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [each_text(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def _loads(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError:
        mended = _mended(text)
        try:
            value, end = _DECODER.raw_decode(mended)
        except json.JSONDecodeError:
            value, end = None, 0
        if not isinstance(value, dict) or set(mended[end:]) - set("}] "):
            raise
        return value


def _mended(text: str) -> str:
    """The text without commas too many at the end of a list or object, and with Python's True,
    False and None as JSON writes them.

    Nothing that could be meant otherwise, and never a string: what is written to a file must be
    what was sent. The package json-repair guesses at strings that hold quotes.
    """
    pieces: list[str] = []
    for piece in _PIECE.findall(text):
        after = pieces[-2:-1] not in ([], ["{"], ["["])  # a value: a comma alone is another mistake
        if piece in ("}", "]") and pieces[-1:] == [","] and after:
            pieces.pop()
        pieces.append(_PYTHON.get(piece, piece))
    return " ".join(pieces)


def _arguments(raw: Any) -> dict[str, Any]:
    parsed, _ = parse(raw)
    if parsed is not None:
        result: dict[str, Any] = sound(parsed)
        return result
    text = raw if isinstance(raw, str) else repr(raw)
    return {MALFORMED: sound(text[:LONGEST_RAW])}


def _choice(data: Any) -> dict[str, Any] | None:
    if not isinstance(data, dict):
        raise BadAnswer(f"the answer is no JSON object: {str(data)[:200]}")
    if data.get("error"):
        raise ErrorAnswer(data["error"])
    return next(iter(_items(data.get("choices"))), None)


def _add(whole: Completion, choice: dict[str, Any], part: dict[str, Any]) -> None:
    """Adds what a message, or a piece of one, says and thinks."""
    whole.content += _text(part.get("content")) or _text(part.get("refusal"))
    whole.reasoning += _text(part.get("reasoning_content")) or _text(part.get("reasoning"))
    whole.finish = _text(choice.get("finish_reason")) or whole.finish


def _add_piece(item: dict[str, Any], calls: list[RawCall], current: dict[int, int]) -> None:
    """Adds a piece of a call. Some servers give each call a new id under the same index, some
    repeat id or name with every piece, some send no index or no id at all."""
    index, piece = item.get("index"), _raw_call(item)
    key = index if isinstance(index, int) else len(calls) - 1
    call = calls[current[key]] if key in current else None
    if call is None or _is_another(piece, call):
        current[key if isinstance(index, int) else len(calls)] = len(calls)
        calls.append(piece._replace(arguments="" if piece.arguments is None else piece.arguments))
        return
    arguments = piece.arguments if piece.arguments is not None else call.arguments
    if isinstance(piece.arguments, str) and isinstance(call.arguments, str):
        arguments = call.arguments + piece.arguments
    calls[current[key]] = RawCall(
        call.id or piece.id, call.name + (piece.name if piece.name != call.name else ""), arguments
    )


def _is_another(piece: RawCall, call: RawCall) -> bool:
    """True if a piece belongs to another call than the one so far under its index."""
    if piece.id and call.id and piece.id != call.id:
        return True
    return bool(piece.name and call.arguments) and parse(call.arguments)[0] is not None


def _raw_call(item: dict[str, Any]) -> RawCall:
    function = _object(item.get("function"))
    return RawCall(_text(item.get("id")), _text(function.get("name")), function.get("arguments"))


def _items(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    """Text of a field that may be a string, a list of text parts, or anything else."""
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in _items(value))
    return value if isinstance(value, str) else ""
