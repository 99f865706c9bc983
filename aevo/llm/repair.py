"""Tool calls as models really send them: made sound, or marked so that the loop can answer them.

A call whose arguments are not a JSON object becomes a ToolCall with the one argument `MALFORMED`,
holding what was sent. Every tool refuses that argument, so the model reads an error and may send
the call again; `complaint` is a better text for the same purpose. It is bounded: `MAX_REPAIRS`
broken turns in a row, counted in the conversation itself, so also across a restart.
"""

import json
import re
from collections.abc import Collection
from typing import Any, NamedTuple

from aevo.records.trace import ToolCall, Turn

MALFORMED = "__malformed__"
MAX_REPAIRS = 3
EMPTY = "[empty reply]"
CUT = "[cut off: the reply reached its token limit]"
LONGEST_RAW = 4000  # characters of a malformed call that are kept


class RawCall(NamedTuple):
    """A call as it came."""

    id: str
    name: str
    arguments: Any


def sound_calls(raw: list[RawCall], turns: list[Turn]) -> list[ToolCall]:
    """Calls with ids unique in the conversation and arguments that are an object.

    An id that is missing or was used before is replaced: the loop finds results by id.
    """
    used = {call.id for turn in turns for call in turn.tool_calls}
    number = sum(turn.role == "assistant" for turn in turns) + 1
    calls = []
    for place, call in enumerate(raw):
        name = sound(call.name).strip() or "unnamed"
        given = sound(call.id)
        serial = place
        while not given or given in used:  # nine letters and digits: the strictest servers' form
            given = f"call{number % 1000:03d}{serial:02d}"
            serial += 1
        used.add(given)
        calls.append(ToolCall(id=given, name=name, arguments=_arguments(call.arguments)))
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
    if isinstance(text, str):
        fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)```\s*", text, re.DOTALL)
        try:
            # strict=False: line breaks inside strings are common and harmless.
            value = json.loads(fenced.group(1) if fenced else text, strict=False,
                               parse_constant=_no_constant)
            if isinstance(value, str):  # encoded twice
                value = json.loads(value, strict=False, parse_constant=_no_constant)
        except json.JSONDecodeError as error:
            return None, f"{error.msg} at character {error.pos}"
        except ValueError as error:
            return None, str(error)
        except RecursionError:
            return None, "nested too deeply"
    else:
        value = text
    if not isinstance(value, dict):
        return None, f"it is a {type(value).__name__}"
    return value, ""


def sound(value: Any) -> Any:
    """The value with half surrogate pairs replaced, which no record could be written with."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {sound(key): sound(item) for key, item in value.items()}
    if isinstance(value, list):
        return [sound(item) for item in value]
    return value


def _arguments(raw: Any) -> dict[str, Any]:
    parsed, _ = parse(raw)
    if parsed is not None:
        result: dict[str, Any] = sound(parsed)
        return result
    text = raw if isinstance(raw, str) else repr(raw)
    return {MALFORMED: sound(text[:LONGEST_RAW])}


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
