"""Messages on the wire: with native tool calls, or with a text protocol for models without them."""

import json
import re
from typing import Any

from aevo.llm.answers import MALFORMED, RawCall, parse
from aevo.llm.model import ToolSchema
from aevo.llm.prompts import render
from aevo.records.trace import ToolCall, Turn

Message = dict[str, Any]

# A fence closes at the start of a line: ``` inside a JSON string is never there. A block that is
# not closed reaches to the end; its JSON then decides whether it can be used.
_BLOCK = re.compile(
    r"^[ \t]*```[ \t]*tool(?:_call)?[ \t]*\n(?P<fenced>.*?)(?:^[ \t]*```|\Z)"
    r"|<tool_call>(?P<tagged>.*?)(?:</tool_call>|\Z)",
    re.DOTALL | re.MULTILINE,
)
_NAME = re.compile(r'"name"\s*:\s*"([^"\\]{1,64})"')


def describe(tools: list[ToolSchema]) -> str:
    """The part of the system prompt that teaches the protocol; empty without tools."""
    if not tools:
        return ""
    shown = [(tool.name, tool.description, json.dumps(tool.parameters)) for tool in tools]
    return render("llm", "text_protocol", tools=shown)


def text_messages(turns: list[Turn], tools: list[ToolSchema]) -> list[Message]:
    """The conversation as plain text. Roles alternate, as many templates demand: results of one
    turn's calls and what the user says after them are one message."""
    names = {call.id: call.name for turn in turns for call in turn.tool_calls}
    teaching = describe(tools)
    messages: list[Message] = []
    for turn in turns:
        role, content = turn.role, turn.content
        if role == "system" and teaching:
            content, teaching = f"{content}\n\n{teaching}", ""
        elif role == "tool":
            role = "user"
            content = f"Result of {names.get(turn.tool_call_id or '', 'the call')}:\n{content}"
        elif turn.tool_calls:
            content = "\n\n".join([*filter(None, [content]), *map(_block, turn.tool_calls)])
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += f"\n\n{content}"
        else:
            messages.append({"role": role, "content": content})
    if teaching:
        messages.insert(0, {"role": "system", "content": teaching})
    return messages


def native_messages(turns: list[Turn]) -> list[Message]:
    """The conversation with native tool calls; reasoning is not part of it."""
    messages: list[Message] = []
    for turn in turns:
        message: Message = {"role": turn.role, "content": turn.content}
        if turn.tool_calls:
            message["content"] = turn.content or None
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
                }
                for call in turn.tool_calls
            ]
        if turn.role == "tool":
            message["tool_call_id"] = turn.tool_call_id or ""
        messages.append(message)
    return messages


def native_tools(tools: list[ToolSchema]) -> list[dict[str, Any]]:
    """The tools as the `tools` parameter has them."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
            },
        }
        for tool in tools
    ]


def decode(text: str) -> tuple[str, list[RawCall]]:
    """Prose and calls of a reply in the text protocol.

    What follows the last block is dropped: models without tool training go on to invent results.
    """
    blocks = list(_BLOCK.finditer(text))
    if not blocks:
        return text.strip(), []
    prose, start = [], 0
    for block in blocks:
        prose.append(text[start : block.start()].strip())
        start = block.end()
    return "\n\n".join(filter(None, prose)), [_call(block) for block in blocks]


def _call(block: "re.Match[str]") -> RawCall:
    text = (block.group("fenced") or block.group("tagged") or "").strip()
    data = parse(text)[0] or {}
    name = data.get("name")
    if not isinstance(name, str):
        found = _NAME.search(text)
        # Text that is not an object: `sound_calls` will mark it as malformed.
        return RawCall("", found.group(1) if found else "unnamed", text or "[]")
    arguments = data.get("arguments", data.get("parameters", {}))
    return RawCall(str(data.get("id") or ""), name, arguments)


def _block(call: ToolCall) -> str:
    if MALFORMED in call.arguments:
        return f"```tool\n{call.arguments[MALFORMED]}\n```"
    return "```tool\n" + json.dumps({"name": call.name, "arguments": call.arguments}) + "\n```"
