"""conf/agent: where a language model is served, how and by whom it is asked. Never a key."""

import shlex
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from aevo.files import secrets
from aevo.files.documents import Part

Transcript = Literal[
    "claude_code", "codex", "gemini_cli", "opencode", "openhands", "mini_swe", "text"
]


class EndpointSettings(Part):
    """conf/agent/openai and conf/agent/vllm: an OpenAI-compatible endpoint.

    Prices are dollars per million tokens; None means unknown, and then what the endpoint itself
    says a call cost (`usage.cost`) is counted; if it does not say so, the cost stays unknown.
    """

    kind: Literal["openai"] = "openai"
    base_url: str | None = None
    model: str | None = None
    api_key_env: str | None = None
    api_key_file: str | None = None
    record: str | None = None
    temperature: NonNegativeFloat | None = None
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: PositiveInt | None = None
    stream: bool = True
    tools: Literal["native", "text", "auto"] = "auto"
    timeout_s: PositiveFloat = 600.0
    connect_timeout_s: PositiveFloat = 10.0
    retries: NonNegativeInt = 8
    max_wait_s: NonNegativeFloat = 900.0
    context_tokens: int = Field(default=128_000, ge=1000)
    price_in: NonNegativeFloat | None = None
    price_out: NonNegativeFloat | None = None
    price_cached: NonNegativeFloat | None = None
    extra_body: dict[str, Any] = {}
    extra_headers: dict[str, str] = {}

    @field_validator("base_url")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        return None if value is None else checked_url(value)

    @field_validator("extra_headers")
    @classmethod
    def _no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        # Settings are written to campaign.yaml; a key must not come along.
        for name, text in value.items():
            if secrets.header(name):
                raise ValueError(f"{name} looks like a secret: use api_key_env or api_key_file")
            if not (name + text).isascii() or not (name + text).isprintable():
                raise ValueError(f"{name} holds characters that a header cannot")
        return value


class CliAgent(EndpointSettings):
    """conf/agent/claude_code and its neighbours: a coding agent of others does a worker's work.

    What it inherits says where its model is served; collector and meta ask that endpoint
    themselves, in the OpenAI protocol. In `command`, `again`, `env` and `files` these words are
    filled in, inside of the sandbox: {prompt} {prompt_file} {model} {url} (of the proxy, without a
    path) {token} (what it takes for a key) {tools} (the command that serves the tools) {home}
    {wait_s} {context_tokens}.
    """

    kind: Literal["cli"] = "cli"  # type: ignore[assignment]
    name: str = Field(default="cli", pattern=r"^[a-z][a-z0-9_]{0,31}$")
    command: list[str] = Field(default=[], validate_default=False)
    again: list[str] | None = None
    transcript: Transcript = "text"
    transcript_file: str | None = None
    tools_by: Literal["mcp", "shell"] = "mcp"
    prompt_on_stdin: bool = False
    env: dict[str, str] = {}
    files: dict[str, str] = {}
    read: list[str] = []
    upstream: str | None = None
    key_header: Literal["authorization", "x-api-key", "x-goog-api-key", "api-key"] = "authorization"
    more_models: list[str] = []
    asks: NonNegativeInt = 1
    start_s: PositiveFloat = 120.0
    idle_s: PositiveFloat = 900.0
    wait_s: PositiveFloat = 50.0
    memory_gb: PositiveFloat = 8.0
    disk_gb: PositiveFloat = 4.0
    processes: PositiveInt = 512

    @field_validator("command", "again", mode="before")
    @classmethod
    def _as_words(cls, value: Any) -> Any:
        return shlex.split(value) if isinstance(value, str) else value

    @field_validator("upstream")
    @classmethod
    def _an_upstream(cls, value: str | None) -> str | None:
        return None if value is None else checked_url(value)

    @field_validator("files", "transcript_file")
    @classmethod
    def _below_home(cls, value: Any) -> Any:
        for name in value if isinstance(value, dict) else [value] if value else []:
            if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{name!r} does not lie below the agent's home")
        return value

    @field_validator("command", "again", "env", "files")
    @classmethod
    def _no_keys(cls, value: Any) -> Any:
        # They are written to campaign.yaml and shown to the agent; a key is for the proxy alone.
        named = isinstance(value, dict)
        for name, text in value.items() if named else [("command", word) for word in value or []]:
            variable = named and "/" not in name and "." not in name and secrets.variable(name)
            long = len(text) >= 8 and not text.isdecimal()
            if secrets.hide(text) != text or (variable and long and "{token}" not in text):
                raise ValueError(
                    f"{name} looks like a secret: keys go into api_key_env or api_key_file, and "
                    "{token} stands where the agent wants one"
                )
        return value


def checked_url(url: str) -> str:
    """The address, if an endpoint can be asked at it; else a ValueError says what is wrong."""
    problem = ""
    try:
        parts = urlsplit(url)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or (parts.port is not None and parts.port < 1)
        ):
            problem = "is not an address such as https://HOST/v1"
        elif parts.username is not None or parts.password is not None:
            problem = "holds a user name or password: use api_key_env or api_key_file"
        elif url.rstrip("/").endswith(("/chat/completions", "/models")):
            problem = "is the address of one call: leave out what follows /v1"
        elif not url.isascii() or not url.isprintable() or " " in url:
            problem = "holds characters that an address cannot"
    except ValueError:
        problem = "is not an address such as https://HOST/v1"
    if problem:
        raise ValueError(problem)
    return url
