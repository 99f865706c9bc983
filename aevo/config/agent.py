"""conf/agent: where a language model is served and how it is asked. Never a key."""

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
