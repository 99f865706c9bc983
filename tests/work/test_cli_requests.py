"""What of an agent's requests may pass to its model, and what an answer is found to have cost."""

import json
from typing import Any

import pytest

from aevo.work.cli.requests import Refused, judge
from aevo.work.cli.told import Told, parsed

MODELS = {"m-1"}
FUNCTION = {"type": "function", "function": {"name": "bash", "parameters": {}}}


@pytest.mark.parametrize(
    ("path", "body", "passed", "costs"),
    [
        ("/v1/chat/completions", {"model": "m-1", "tools": [FUNCTION]}, "/chat/completions", True),
        ("/v1/responses", {"model": "m-1", "tools": [{"type": "custom"}]}, "/responses", True),
        ("/v1/messages", {"model": "m-1", "tools": [{"name": "Bash"}]}, "/messages", True),
        ("/v1/messages", {"model": "m-1", "tools": [{"type": "bash_20250124"}]}, "/messages", True),
        ("/v1/messages/count_tokens", {"model": "m-1"}, "/messages/count_tokens", False),
        (
            "/v1beta/models/m-1:streamGenerateContent",
            {"tools": [{"functionDeclarations": []}]},
            "/models/m-1:streamGenerateContent",
            True,
        ),
    ],
)
def test_what_makes_the_model_think_passes(path: str, body: Any, passed: str, costs: bool) -> None:
    found = judge("POST", path, body, MODELS)
    assert (found.path, found.costs) == (passed, costs)


@pytest.mark.parametrize(
    ("method", "path", "body", "why"),
    [
        ("POST", "/v1/files", {"model": "m-1"}, "not let through"),
        ("POST", "/v1/batches", {"model": "m-1"}, "not let through"),
        ("DELETE", "/v1/models/m-1", None, "not let through"),
        ("GET", "/v1/models/../files", None, "not let through"),
        ("GET", "/v1/responses/resp_1", None, "not let through"),
        ("POST", "/v1/chat/completions/../../files", {"model": "m-1"}, "not let through"),
        ("POST", "/v1/chat/completions", {"model": "m-2"}, "m-2"),
        ("POST", "/v1/chat/completions", {}, "None"),
        ("POST", "/v1/chat/completions", None, "no JSON object"),
        ("POST", "/v1/chat/completions", {"model": "m-1", "web_search_options": {"x": 1}}, "web_"),
        ("POST", "/v1/chat/completions", {"model": "m-1", "plugins": [{"id": "web"}]}, "plugins"),
        (
            "POST",
            "/v1/responses",
            {"model": "m-1", "tools": [{"type": "web_search"}]},
            "web_search",
        ),
        ("POST", "/v1/responses", {"model": "m-1", "tools": [{"type": "mcp"}]}, "mcp"),
        ("POST", "/v1/responses", {"model": "m-1", "background": True}, "background"),
        ("POST", "/v1/messages", {"model": "m-1", "mcp_servers": [{}]}, "mcp_servers"),
        ("POST", "/v1/messages", {"model": "m-1", "tools": [{"type": "web_fetch_1"}]}, "web_fetch"),
        ("POST", "/v1/messages", {"model": "m-1", "tools": ["web"]}, "'?'"),
        ("POST", "/v1beta/models/m-2:generateContent", {}, "m-2"),
        (
            "POST",
            "/v1beta/models/m-1:generateContent",
            {"tools": [{"functionDeclarations": [], "googleSearch": {}}]},
            "googleSearch",
        ),
    ],
)
def test_all_else_is_refused_with_a_reason(method: str, path: str, body: Any, why: str) -> None:
    with pytest.raises(Refused, match=why.replace("?", r"\?")):
        judge(method, path, body, MODELS)


URL = "https://elsewhere.example/?secret"
FETCH: dict[str, Any] = {
    "an image": {"type": "image_url", "image_url": {"url": URL}},
    "an image of Responses": {"type": "input_image", "image_url": URL},
    "a file of Responses": {"type": "input_file", "file_url": URL},
    "an image of Messages": {"type": "image", "source": {"type": "url", "url": URL}},
    "a document in a tool's answer": {
        "type": "tool_result",
        "content": [{"type": "document", "source": {"type": "url", "url": "ftp://x"}}],
    },
    "a file of Gemini": {"fileData": {"fileUri": "gs://bucket/x"}},
}


@pytest.mark.parametrize("what", FETCH)
@pytest.mark.parametrize("depth", [0, 1, 30])
def test_nothing_is_fetched_for_a_message(what: str, depth: int) -> None:
    part = FETCH[what]
    for _ in range(depth):
        part = {"content": [part]}
    body = {"model": "m-1", "messages": [{"role": "user", "content": [part]}]}
    with pytest.raises(Refused, match="fetch"):
        judge("POST", "/v1/messages", body, MODELS)


def test_what_a_tool_is_called_with_is_the_agents_own() -> None:
    parts = [
        {"type": "tool_use", "name": "fetch", "input": {"source": {"url": URL}, "image_url": URL}},
        {"functionCall": {"name": "fetch", "args": {"image_url": URL}}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
        {"type": "image", "source": {"type": "base64", "data": "AA"}},
        {"type": "text", "text": f"see {URL}"},
    ]
    body = {"model": "m-1", "messages": [{"role": "user", "content": parts}]}
    assert judge("POST", "/v1/messages", body, MODELS).costs


@pytest.mark.parametrize("name", ["models", "fallbacks", "route", "api_base", "base_url"])
def test_no_other_model_or_host_is_named(name: str) -> None:
    with pytest.raises(Refused, match=name):
        judge("POST", "/v1/chat/completions", {"model": "m-1", name: ["m-2"]}, MODELS)


def test_a_request_of_too_many_values_is_refused() -> None:
    with pytest.raises(Refused, match="values"):
        judge("POST", "/v1/messages", {"model": "m-1", "messages": [[]] * 300_000}, MODELS)


def events(*items: Any) -> bytes:
    return b"".join(f"event: x\ndata: {json.dumps(item)}\n\n".encode() for item in items)


CHAT = {"prompt_tokens": 7, "completion_tokens": 3}
RESPONSES = {
    "input_tokens": 7,
    "input_tokens_details": {"cached_tokens": 2},
    "output_tokens": 3,
    "total_tokens": 10,
}
GEMINI = {"promptTokenCount": 7, "candidatesTokenCount": 1, "thoughtsTokenCount": 2}


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps({"usage": CHAT}, indent=2).encode(),
        events({"choices": []}, {"choices": [], "usage": CHAT}) + b"data: [DONE]\n\n",
        json.dumps({"usage": RESPONSES}).encode(),
        events({"type": "response.completed", "response": {"usage": RESPONSES}}),
        json.dumps({"usage": {"input_tokens": 7, "output_tokens": 3}}).encode(),
        events(
            {
                "type": "message_start",
                "message": {
                    "usage": {
                        "input_tokens": 2,
                        "cache_read_input_tokens": 4,
                        "cache_creation_input_tokens": 1,
                        "output_tokens": 1,
                    }
                },
            },
            {"type": "message_delta", "usage": {"output_tokens": 3}},
        ),
        json.dumps([{"usageMetadata": {}}, {"usageMetadata": GEMINI}]).encode(),
        events({"usageMetadata": GEMINI}),
    ],
    ids=["chat", "chat stream", "responses", "responses stream", "messages", "messages stream",
         "gemini", "gemini stream"],
)  # fmt: skip
def test_tokens_are_found_in_every_protocol(answer: bytes) -> None:
    told = Told()
    for line in answer.splitlines(keepends=True):
        told.line(line)
    told.end()
    assert (told.usage["prompt_tokens"], told.usage["completion_tokens"]) == (7, 3)
    assert told.characters == len(answer)


def test_an_answer_that_tells_nothing_is_counted_by_its_length() -> None:
    told = Told()
    for line in (b"data: {usage broken\n", b"no json, usage\n", b'{"usage": 3}\n', b"\xff\n"):
        told.line(line)
    told.end()
    assert told.usage == {} and told.characters > 20


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_json_is_none(body: bytes) -> None:
    assert parsed(body) is None
