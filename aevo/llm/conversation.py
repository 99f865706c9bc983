"""A conversation with a model that has one tool and a bounded number of tries, kept in a trace.

Collector and meta use it: the model fills in one typed document, code judges it, a refusal goes
back with its reasons. The trace is the only state: killed at any point and run again, finished
model calls are not repeated, and a conversation that was given up stays given up.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from aevo.config.agent import EndpointSettings
from aevo.errors import ConfigError
from aevo.files import roundlog
from aevo.files.paths import RoundLayout
from aevo.llm.answers import complaint
from aevo.llm.model import Model, ToolSchema
from aevo.llm.retry import EndpointError, Kind, OnRetry
from aevo.records.manifest import Cost
from aevo.records.trace import Event, ToolCall, Trace, Turn, Usage, total

TRIES = 3  # replies that may be refused before the rules stand in
LONGEST_S = 1800.0  # since the conversation began; past it an endpoint's next failure is its last
STOOD_IN = "rules, because "  # how the author of what rules made in a model's place begins
LONGEST_FAULT = 600  # characters of one reason

T = TypeVar("T")


@dataclass(frozen=True)
class Ruling(Generic[T]):
    """What judging a call gave: the product, or the faults for which it is refused."""

    product: T | None
    faults: Sequence[str] = ()


# (number of the try from 1, the call's arguments) -> ruling. Must be a pure function of these, as
# it is asked again after a restart.
Judge = Callable[[int, dict[str, Any]], Ruling[T]]
BuildModel = Callable[[OnRetry], Model]


@dataclass(frozen=True)
class Ended(Generic[T]):
    """How a conversation ended. `product` is None if the rules have to stand in, for `reason`."""

    product: T | None
    model: str
    refusals: int
    reason: str | None
    cost: Cost

    @property
    def author(self) -> str:
        """Who the product is by, in the words of the record."""
        return self.model if self.product is not None else f"{STOOD_IN}{self.reason}"


def at_endpoint(settings: EndpointSettings, number: int, folder: Path) -> BuildModel:
    """Builds the client of what works in `folder` for round `number`; the round's log is told of
    outages."""
    tell = partial(roundlog.tell, RoundLayout(folder.parent, number).log, folder.name)

    def build(on_retry: OnRetry) -> Model:
        from aevo.llm.client import OpenAIModel  # `openai` is half of a start's imports

        return OpenAIModel(settings, on_retry=on_retry, on_outage=tell, seed=number)

    return build


def converse(
    build: BuildModel, tool: ToolSchema, opening: Sequence[Turn], trace: Trace, judge: Judge[T]
) -> Ended[T]:
    """Runs or continues the conversation in `trace` until a product is accepted or given up.

    Args:
        opening: system and user turn; only what the trace lacks of them is added.

    Not guaranteed: a call in flight when the process is killed is made again, and paid twice.
    """
    for turn in opening[len(trace.turns()) :]:
        trace.message(turn)
    closed = _closing(trace)
    if closed is None:
        _talk(build, tool, trace, judge)
        closed = _closing(trace)
    if closed is None:  # _talk always writes it
        raise RuntimeError(f"{trace.path} has no end")
    review = _review(tool, trace, judge)
    accepted = bool(closed.data["accepted"])
    return Ended(
        product=review.product if accepted else None,
        model=str(closed.data["model"]),
        refusals=review.refusals,
        reason=None if accepted else str(closed.data["reason"]),
        cost=_cost(trace, closed),
    )


def _talk(build: BuildModel, tool: ToolSchema, trace: Trace, judge: Judge[T]) -> None:
    """Asks until it is over, and notes how it ended."""

    def on_retry(kind: Kind, attempt: int, wait_s: float, text: str) -> None:
        trace.note("note", retry=str(kind), attempt=attempt, wait_s=round(wait_s, 1), text=text)
        if time.time() - trace.started() > LONGEST_S:
            raise EndpointError(f"no answer within {LONGEST_S:.0f} s, at last {text}", kind=kind)

    name, problem, spent = "the model", "", Usage()
    try:
        model = build(on_retry)
        name = model.name
        while True:
            review = _review(tool, trace, judge)
            if review.product is not None or review.refusals >= TRIES:
                break
            reply = model.complete(trace.turns(), [tool])
            trace.message(reply.turn, reply.usage)
    except EndpointError as error:
        problem, spent = f"the endpoint failed ({error.kind}): {error.what}", error.usage
    except ConfigError as error:
        problem = f"no endpoint is configured: {error.what}"
    review = _review(tool, trace, judge)
    if not problem and review.product is None:
        last = "; ".join(review.faults)
        problem = f"{review.refusals} replies of {name} were refused, the last: {last}"
    trace.note(
        "finish",
        accepted=not problem,
        model=name,
        reason=problem[:LONGEST_FAULT],
        **spent.model_dump(),
    )


@dataclass(frozen=True)
class _Review(Generic[T]):
    product: T | None
    refusals: int
    faults: Sequence[str]


def _review(tool: ToolSchema, trace: Trace, judge: Judge[T]) -> _Review[T]:
    """Judges every reply so far, and writes the answers that are still missing."""
    turns = trace.turns()
    answered = {turn.tool_call_id for turn in turns if turn.role == "tool"}
    replies = [turn for turn in turns if turn.role == "assistant"]
    faults: Sequence[str] = ()
    for number, turn in enumerate(replies, start=1):
        ruling = _rule(number, turn, tool, judge)
        faults = ruling.faults
        text = _answer(number, ruling, tool)
        for place, call in enumerate(turn.tool_calls):
            if call.id not in answered:
                content = text if place == 0 else "error: not read; one call at a time."
                trace.message(Turn(role="tool", tool_call_id=call.id, content=content))
        if not turn.tool_calls and turn is turns[-1]:
            trace.message(Turn(role="user", content=text))
        if ruling.product is not None:
            return _Review(ruling.product, number - 1, ())
    return _Review(None, len(replies), faults)


def _rule(number: int, turn: Turn, tool: ToolSchema, judge: Judge[T]) -> Ruling[T]:
    if not turn.tool_calls:
        return Ruling(None, [f"the reply does not call {tool.name}"])
    call: ToolCall = turn.tool_calls[0]
    if call.name != tool.name:
        return Ruling(None, [f"there is no tool {call.name[:60]}, only {tool.name}"])
    broken = complaint(call)
    return Ruling(None, [broken]) if broken else judge(number, call.arguments)


def _answer(number: int, ruling: Ruling[T], tool: ToolSchema) -> str:
    if ruling.product is not None:
        return "accepted"
    faults = "\n".join(f"- {fault[:LONGEST_FAULT]}" for fault in ruling.faults)
    left = TRIES - number
    mend = f"Mend all of it and call {tool.name} again, complete" if left > 0 else "No try is left"
    return f"refused ({number} of {TRIES}):\n{faults}\n{mend}."


def _closing(trace: Trace) -> Event | None:
    return next((event for event in trace.events if event.kind == "finish"), None)


def _cost(trace: Trace, closed: Event) -> Cost:
    """Sums over all calls that answered, also those that led to no turn."""
    used = trace.usage()
    return Cost(
        turns=sum(turn.role == "assistant" for turn in trace.turns()),
        tokens_in=used.tokens_in + int(closed.data["tokens_in"]),
        tokens_out=used.tokens_out + int(closed.data["tokens_out"]),
        dollars=total([used.dollars, closed.data["dollars"]]),
        wall_s=round(closed.time - trace.started(), 2),
    )
