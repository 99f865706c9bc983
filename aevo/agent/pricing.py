"""What a call cost: tokens and dollars, from what the endpoint says or, failing that, by length."""

from typing import Any

from aevo.agent.settings import EndpointSettings
from aevo.records.trace import Usage

CHARACTERS_PER_TOKEN = 4.0


def usage_of(told: Any, settings: EndpointSettings, sent: int, received: int) -> Usage:
    """Tokens and dollars of one answered call.

    Args:
        told: the answer's `usage` object; anything else counts as nothing told.
        sent: characters sent, received: characters that came back (reasoning included). They
            stand in, at four a token, for numbers the endpoint does not tell.

    Reasoning tokens are part of tokens_out. Tries that failed are not counted: the endpoint does
    not say what they cost.
    """
    told = told if isinstance(told, dict) else {}
    tokens_in = _count(told, "prompt_tokens", "input_tokens")
    tokens_out = _count(told, "completion_tokens", "output_tokens")
    if tokens_in is None:
        tokens_in = round(sent / CHARACTERS_PER_TOKEN)
    if tokens_out is None:
        tokens_out = round(received / CHARACTERS_PER_TOKEN)
    cached = min(_cached(told), tokens_in)
    return Usage(tokens_in=tokens_in, tokens_out=tokens_out,
                 dollars=_dollars(told, settings, tokens_in, tokens_out, cached))


def _dollars(told: dict[str, Any], settings: EndpointSettings, tokens_in: int, tokens_out: int,
             cached: int) -> float:
    if settings.price_in is None and settings.price_out is None:
        cost = told.get("cost")
        known = isinstance(cost, int | float) and not isinstance(cost, bool) and cost >= 0
        return float(cost) if known else 0.0  # type: ignore[arg-type]
    price_in = settings.price_in or 0.0
    price_cached = price_in if settings.price_cached is None else settings.price_cached
    return ((tokens_in - cached) * price_in + cached * price_cached
            + tokens_out * (settings.price_out or 0.0)) / 1e6


def _cached(told: dict[str, Any]) -> int:
    details = told.get("prompt_tokens_details") or told.get("input_tokens_details")
    nested = _count(details, "cached_tokens") if isinstance(details, dict) else None
    flat = _count(told, "prompt_cache_hit_tokens", "cached_tokens")
    return nested if nested is not None else flat or 0


def _count(data: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = data.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None
