"""The other protocols of model endpoints, for the fake one: each request is told to the brain as a
chat completion, and its reply is told back as the protocol's own stream, or whole.

Only what agents of others need: messages, calls of functions, their results, usage. Written from
the public references of the Responses, Messages and generateContent interfaces.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Said = dict[str, Any]
Event = tuple[str | None, Any]  # name of a server-sent event, and its data


@dataclass(frozen=True)
class Protocol:
    """How one protocol is read and written."""

    request: Callable[[Said], Said]
    events: Callable[[Said, Said, Said], Iterator[Event]]  # request, reply, usage
    whole: Callable[[Said, Said, Said], Said]


def text_in(content: Any) -> str:
    """The text of a message's content."""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content or [] if isinstance(part, dict))


def function(name: str, parameters: Any = None, description: str = "") -> Said:
    wired = {"name": name, "description": description, "parameters": parameters or {}}
    return {"type": "function", "function": wired}


def arguments_of(call: Said) -> str:
    given = call.get("arguments", {})
    return given if isinstance(given, str) else json.dumps(given)


# Responses


def from_responses(body: Said) -> Said:
    messages = [{"role": "system", "content": body.get("instructions") or ""}]
    for item in body["input"] if isinstance(body["input"], list) else []:
        if item.get("type", "message") == "message":
            messages.append({"role": item["role"], "content": text_in(item["content"])})
        elif item["type"] in ("function_call_output", "custom_tool_call_output"):
            output = item["output"]
            content = output if isinstance(output, str) else text_in(output)
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": content})
        elif item["type"] in ("function_call", "custom_tool_call"):
            messages.append({"role": "assistant", "content": "", "tool_calls": [item]})
    tools = []
    for tool in body.get("tools") or []:
        if tool.get("type") == "namespace":
            tools += [
                function(f"{tool['name']}.{inner['name']}", inner.get("parameters"))
                for inner in tool["tools"]
            ]
        elif tool.get("type") == "function":
            tools.append(function(tool["name"], tool.get("parameters")))
    return {"model": body["model"], "messages": messages, "tools": tools}


def responses_items(reply: Said) -> list[Said]:
    items: list[Said] = []
    if reply.get("content"):
        part = {"type": "output_text", "text": reply["content"], "annotations": []}
        items.append({"type": "message", "id": "msg_1", "role": "assistant", "content": [part],
                      "status": "completed"})  # fmt: skip
    for call in reply.get("tool_calls") or []:
        space, _, name = call["name"].rpartition(".")
        item = {"type": "function_call", "id": f"fc_{call['id']}", "call_id": call["id"],
                "name": name, "arguments": arguments_of(call), "status": "completed"}  # fmt: skip
        items.append(item | ({"namespace": space} if space else {}))
    return items


def responses_whole(body: Said, reply: Said, usage: Said) -> Said:
    told = {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"],
    }
    return {"id": "resp_1", "object": "response", "created_at": 0, "status": "completed",
            "model": body["model"], "output": responses_items(reply), "usage": told}  # fmt: skip


def responses_events(body: Said, reply: Said, usage: Said) -> Iterator[Event]:
    whole = responses_whole(body, reply, usage)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    yield "response.created", {"type": "response.created", "response": begun}
    for index, item in enumerate(whole["output"]):
        added, done = "response.output_item.added", "response.output_item.done"
        yield added, {"type": added, "output_index": index, "item": item}
        if item["type"] == "message":
            delta = "response.output_text.delta"
            text = item["content"][0]["text"]
            yield (
                delta,
                {
                    "type": delta,
                    "item_id": item["id"],
                    "output_index": index,
                    "content_index": 0,
                    "delta": text,
                },
            )
        yield done, {"type": done, "output_index": index, "item": item}
    yield "response.completed", {"type": "response.completed", "response": whole}


# Messages


def from_messages(body: Said) -> Said:
    messages: list[Said] = [{"role": "system", "content": text_in(body.get("system"))}]
    for item in body["messages"]:
        parts = item["content"] if isinstance(item["content"], list) else []
        results = [part for part in parts if part.get("type") == "tool_result"]
        for part in results:
            content = text_in(part.get("content"))
            answer = {"role": "tool", "tool_call_id": part["tool_use_id"], "content": content}
            messages.append(answer)
        if not results:
            messages.append({"role": item["role"], "content": text_in(item["content"])})
    tools = [function(tool["name"], tool.get("input_schema")) for tool in body.get("tools") or []]
    return {"model": body["model"], "messages": messages, "tools": tools}


def messages_parts(reply: Said) -> list[Said]:
    parts: list[Said] = []
    if reply.get("content"):
        parts.append({"type": "text", "text": reply["content"]})
    for call in reply.get("tool_calls") or []:
        given = json.loads(arguments_of(call))
        parts.append({"type": "tool_use", "id": call["id"], "name": call["name"], "input": given})
    return parts


def messages_whole(body: Said, reply: Said, usage: Said) -> Said:
    told = {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}
    reason = "tool_use" if reply.get("tool_calls") else "end_turn"
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"],
            "content": messages_parts(reply), "stop_reason": reason, "stop_sequence": None,
            "usage": told}  # fmt: skip


def messages_events(body: Said, reply: Said, usage: Said) -> Iterator[Event]:
    whole = messages_whole(body, reply, usage)
    begun = {**whole, "content": [], "stop_reason": None}
    begun["usage"] = {**whole["usage"], "output_tokens": 1}
    yield "message_start", {"type": "message_start", "message": begun}
    for index, part in enumerate(whole["content"]):
        if part["type"] == "text":
            empty, delta = {**part, "text": ""}, {"type": "text_delta", "text": part["text"]}
        else:
            empty = {**part, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(part["input"])}
        for name, more in (
            ("content_block_start", {"content_block": empty}),
            ("content_block_delta", {"delta": delta}),
            ("content_block_stop", {}),
        ):
            yield name, {"type": name, "index": index, **more}
    ended = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    told = {"output_tokens": whole["usage"]["output_tokens"]}
    yield "message_delta", {"type": "message_delta", "delta": ended, "usage": told}
    yield "message_stop", {"type": "message_stop"}


# generateContent


def from_gemini(body: Said) -> Said:
    messages: list[Said] = [
        {"role": "system", "content": text_in((body.get("systemInstruction") or {}).get("parts"))}
    ]
    for item in body["contents"]:
        results = [part["functionResponse"] for part in item["parts"] if "functionResponse" in part]
        for result in results:
            content = json.dumps(result.get("response"))
            messages.append({"role": "tool", "tool_call_id": result["name"], "content": content})
        if not results:
            role = "assistant" if item.get("role") == "model" else "user"
            messages.append({"role": role, "content": text_in(item["parts"])})
    tools = [
        function(item["name"], item.get("parametersJsonSchema"))
        for tool in body.get("tools") or []
        for item in tool.get("functionDeclarations") or []
    ]
    return {"model": body["model"], "messages": messages, "tools": tools}


def gemini_whole(body: Said, reply: Said, usage: Said) -> Said:
    parts: list[Said] = [{"text": reply["content"]}] if reply.get("content") else []
    for call in reply.get("tool_calls") or []:
        given = json.loads(arguments_of(call))
        parts.append({"functionCall": {"name": call["name"], "args": given}})
    total = usage["prompt_tokens"] + usage["completion_tokens"]
    told = {"promptTokenCount": usage["prompt_tokens"], "totalTokenCount": total,
            "candidatesTokenCount": usage["completion_tokens"]}  # fmt: skip
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}
    return {"candidates": [candidate], "usageMetadata": told, "modelVersion": body["model"]}


def gemini_events(body: Said, reply: Said, usage: Said) -> Iterator[Event]:
    yield None, gemini_whole(body, reply, usage)


RESPONSES = Protocol(from_responses, responses_events, responses_whole)
MESSAGES = Protocol(from_messages, messages_events, messages_whole)
GEMINI = Protocol(from_gemini, gemini_events, gemini_whole)


def protocol_of(path: str) -> tuple[Protocol, str | None, bool] | None:
    """The protocol that a path is of, the model that it names, and whether it asks for a stream;
    None for chat completions and for no path of a model."""
    path = path.split("?")[0]
    if path == "/v1/responses":
        return RESPONSES, None, False
    if path == "/v1/messages":
        return MESSAGES, None, False
    if path.startswith("/v1beta/models/") and path.endswith("enerateContent"):
        model, _, verb = path.removeprefix("/v1beta/models/").partition(":")
        return GEMINI, model, verb.startswith("stream")
    return None
