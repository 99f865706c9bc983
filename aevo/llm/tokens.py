"""Tokens: a conversation kept within a model's context by leaving out old tool output, and what
the calls cost.

What is left out is left out of what is sent, never of the trace. The system prompt, the task and
the last turns always go along.
"""

import json
from typing import Any

from aevo.config.agent import EndpointSettings
from aevo.records.trace import Turn, Usage

KEEP_LAST = 6  # turns at the end that are sent whole
KEEP_LAST_HARD = 2  # the same, after the endpoint has said that it was too much
LOW_WATER = 0.75  # trimming goes down to this share, so that it happens seldom (prompt caches)
WORTH = 300  # characters; shorter texts are not replaced
CHARACTERS_PER_TOKEN = 4.0  # until an endpoint tells
PER_TURN = 16  # characters a turn costs besides its text


class Window:
    """Trims the turns of one conversation.

    Args:
        context_tokens: the model's context, reply included.
        reserve_tokens: what of it is kept free for the reply (at most half).

    The estimate is four characters a token until the endpoint has told what a prompt really had.
    What was left out once stays left out; a new Window (after a restart) decides anew.
    """

    def __init__(self, context_tokens: int, reserve_tokens: int = 0) -> None:
        self._reserve = min(reserve_tokens, context_tokens // 2)
        self.limit = context_tokens - self._reserve
        self._keep_last = KEEP_LAST
        self._longest: int | None = None
        self._tokens_per_character = 1 / CHARACTERS_PER_TOKEN
        self._left_out: set[tuple[int, int]] = set()

    def estimate(self, turns: list[Turn], overhead: int = 0) -> float:
        """Tokens of these turns; `overhead` are characters sent besides (tool schemas)."""
        return (characters(turns) + overhead) * self._tokens_per_character

    def learn(self, sent: int, prompt_tokens: int) -> None:
        """Corrects the estimate by what the endpoint counted for `sent` characters."""
        if sent >= 1000 and prompt_tokens > 0:  # short prompts are mostly the template's own
            self._tokens_per_character = min(1.0, max(0.1, prompt_tokens / sent))

    def tighten(self, turns: list[Turn], overhead: int, told_limit: int | None) -> None:
        """The endpoint refused `turns` as too long: from now on fewer and shorter ones."""
        believed = min(self.limit, self.estimate(turns, overhead)) * 0.6
        if told_limit is not None:
            believed = min(believed, 0.9 * max(told_limit - self._reserve, told_limit // 2))
        self.limit = int(believed)
        self._keep_last = KEEP_LAST_HARD
        self._longest = max(WORTH, int(self.limit / self._tokens_per_character / 4))

    def fit(self, turns: list[Turn], overhead: int = 0) -> list[Turn]:
        """The turns to send. They may still be too many if what must stay is."""
        names = {call.id: call.name for turn in turns for call in turn.tool_calls}
        sent = [self._shown(place, turn, names) for place, turn in enumerate(turns)]
        length = characters(sent) + overhead
        if length * self._tokens_per_character <= self.limit:
            return sent
        for kind in ("tool", "assistant"):  # outputs first, then long arguments of old calls
            for place in range(len(turns) - self._keep_last):
                if length * self._tokens_per_character <= self.limit * LOW_WATER:
                    return sent
                if turns[place].role == kind:
                    self._left_out.add(_key(place, turns[place]))
                    length -= characters([sent[place]])
                    sent[place] = self._shown(place, turns[place], names)
                    length += characters([sent[place]])
            if length * self._tokens_per_character <= self.limit:
                return sent
        return sent

    def _shown(self, place: int, turn: Turn, names: dict[str, str]) -> Turn:
        if _key(place, turn) in self._left_out:
            return _shortened(turn, names)
        if self._longest is not None and turn.role == "tool" and len(turn.content) > self._longest:
            half = self._longest // 2
            left = len(turn.content) - 2 * half
            content = (
                f"{turn.content[:half]}\n[… {left} characters left out …]\n{turn.content[-half:]}"
            )
            return turn.model_copy(update={"content": content})
        return turn


def characters(turns: list[Turn]) -> int:
    """Length of the turns as sent, roughly."""
    return sum(
        PER_TURN
        + len(turn.content)
        + sum(len(call.name) + len(json.dumps(call.arguments)) for call in turn.tool_calls)
        for turn in turns
    )


def _key(place: int, turn: Turn) -> tuple[int, int]:
    return place, len(turn.content)


def _shortened(turn: Turn, names: dict[str, str]) -> Turn:
    if turn.role == "tool":
        if len(turn.content) <= WORTH:
            return turn
        name = names.get(turn.tool_call_id or "", "a tool")
        marker = f"[output of {name} left out to save room: {len(turn.content)} characters]"
        return turn.model_copy(update={"content": marker})
    calls = [
        call.model_copy(
            update={
                "arguments": {
                    key: f"[left out to save room: {len(value)} characters]"
                    if isinstance(value, str) and len(value) > WORTH
                    else value
                    for key, value in call.arguments.items()
                }
            }
        )
        for call in turn.tool_calls
    ]
    return turn.model_copy(update={"tool_calls": calls})


def usage_of(told: Any, settings: EndpointSettings, sent: int, received: int) -> Usage:
    """Tokens and dollars of one answered call.

    Args:
        told: the answer's `usage` object; anything else counts as nothing told.
        sent: characters sent, received: characters that came back (reasoning included). They
            stand in, at four a token, for numbers the endpoint does not tell.

    Dollars are None where neither the settings have a price nor the endpoint tells the cost.
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
    return Usage(
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        dollars=_dollars(told, settings, tokens_in, tokens_out, cached),
    )


def _dollars(
    told: dict[str, Any], settings: EndpointSettings, tokens_in: int, tokens_out: int, cached: int
) -> float | None:
    if settings.price_in is None and settings.price_out is None:
        cost = told.get("cost")
        known = isinstance(cost, int | float) and not isinstance(cost, bool) and cost >= 0
        return float(cost) if known else None  # type: ignore[arg-type]
    price_in = settings.price_in or 0.0
    price_cached = price_in if settings.price_cached is None else settings.price_cached
    return (
        (tokens_in - cached) * price_in
        + cached * price_cached
        + tokens_out * (settings.price_out or 0.0)
    ) / 1e6


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
