"""Which requests of an agent may pass to its model's endpoint; pure.

An endpoint does more than answer: it keeps files, lists batches, and offers tools that run on its
own side (web search, remote MCP servers, code), which would be a network for an agent that has
none. So what may pass is named, and all else is refused with a reason that the agent reads.
"""

import re
from dataclasses import dataclass
from typing import Any

# Version of the protocol; what follows is appended to the address of the endpoint.
VERSION = re.compile(r"^/v1(?:beta\d*|alpha)?(?=/)")
GENERATE = re.compile(
    r"/(?:chat/completions|responses|messages|models/[\w.:@-]+:(?:stream)?[gG]enerateContent)"
)
COUNT = re.compile(r"/(?:messages/count_tokens|responses/input_tokens|models/[\w.-]+:countTokens)")
LIST = re.compile(r"/models(?:/[\w.:@/-]+)?")
GEMINI = re.compile(r"/models/([\w.@-]+):")
# Tools that the agent runs itself. Of Anthropic's typed ones the name says what they are.
OWN_TOOLS = re.compile(
    r"function|custom|local_shell|apply_patch|namespace|tool_search|"
    r"(?:bash|text_editor|memory)_\d+"
)
ELSEWHERE = ("mcp_servers", "web_search_options", "plugins", "container", "background")
# What routers between us and a model obey: another model, another host, another key.
ROUTES = ("models", "fallbacks", "route", "api_base", "base_url", "api_key", "user_config")
# Parts of a message whose content an endpoint would fetch, from any host. What a tool is called
# with is the agent's own, and is fetched by nobody.
FETCHED = ("image_url", "file_url", "video_url", "audio_url", "source", "fileData", "file_data")
ADDRESS = ("url", "fileUri", "file_uri")
CALLED = ("input", "args", "arguments", "input_schema", "parameters", "tools")
MOST_PARTS = 200_000  # values of a request that are looked at


@dataclass(frozen=True)
class Passed:
    """A request that may pass: its path at the endpoint, and whether it makes a model think."""

    path: str
    costs: bool


class Refused(Exception):
    """A request that may not pass; the text says why."""


def judge(method: str, path: str, body: Any, models: set[str]) -> Passed:
    """Whether a request may pass.

    Args:
        path: without a query.
        body: the parsed JSON; None if there is none.
        models: those that may be asked.

    Raises:
        Refused: it may not.
    """
    path = VERSION.sub("", path, count=1)
    if method == "GET" and LIST.fullmatch(path) and ".." not in path:
        return Passed(path, False)
    costs = GENERATE.fullmatch(path) is not None
    if method != "POST" or not (costs or COUNT.fullmatch(path)):
        raise Refused(f"{method} {path[:100]} is not let through: only the model can be reached")
    if not isinstance(body, dict):
        raise Refused("the request is no JSON object")
    gemini = GEMINI.match(path)
    model = gemini.group(1) if gemini else body.get("model")
    if model not in models:
        raise Refused(f"the model {str(model)[:100]} is not let through, only {sorted(models)}")
    _no_tools_elsewhere(body, bool(gemini))
    return Passed(path, costs)


def _no_tools_elsewhere(body: dict[str, Any], gemini: bool) -> None:
    """Refuses tools that the endpoint would run on its side."""
    for name in (*ELSEWHERE, *ROUTES):
        if body.get(name):
            raise Refused(f"`{name}` is not let through: it works on the endpoint's side")
    _nothing_fetched(body)
    tools = body.get("tools") or []
    for tool in tools if isinstance(tools, list) else [tools]:
        if gemini:
            kinds = set(tool) if isinstance(tool, dict) else {"?"}
            foreign = kinds - {"functionDeclarations", "function_declarations"}
        else:
            kind = tool.get("type", "function") if isinstance(tool, dict) else "?"
            foreign = set() if OWN_TOOLS.fullmatch(str(kind)) else {str(kind)}
        if foreign:
            raise Refused(f"tools of the kind {sorted(foreign)} run on the endpoint's side")


def _nothing_fetched(body: dict[str, Any]) -> None:
    """Refuses what the endpoint would fetch for a message: that is a way out of the sandbox."""
    pending: list[Any] = [body]
    seen = 0
    while pending:
        item = pending.pop()
        seen += 1
        if seen > MOST_PARTS:
            raise Refused(f"the request holds more than {MOST_PARTS} values")
        if isinstance(item, list):
            pending += item
        elif isinstance(item, dict):
            for name in FETCHED:
                _check_address(name, item.get(name))
            of_a_call = "type" in item or "name" in item
            pending += [
                value
                for name, value in item.items()
                if isinstance(value, dict | list) and not (of_a_call and name in CALLED)
            ]


def _check_address(name: str, value: Any) -> None:
    given: list[Any] = [value]
    if isinstance(value, dict):
        given = [value.get(key) for key in ADDRESS]
    for address in given:
        if isinstance(address, str) and not address.lower().startswith("data:"):
            raise Refused(f"`{name}` may hold data, not what the endpoint would have to fetch")
