"""A language model behind an OpenAI-compatible endpoint, through the `openai` package.

What this adds to the package: failures classified and retried with an end, replies made sound for
the tool loop, a text protocol for models without tool calls, a conversation kept within the
context, cost, and a key that shows up nowhere.
"""

import json
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import openai
from tenacity import RetryCallState

from aevo.config.agent import EndpointSettings
from aevo.llm.answers import (
    CUT,
    EMPTY,
    MAX_REPAIRS,
    BadAnswer,
    Completion,
    broken_in_a_row,
    each_text,
    from_body,
    from_chunks,
    is_broken,
    sound,
    sound_calls,
)
from aevo.llm.endpoint import (
    NO_KEY,
    Endpoint,
    KeyHolder,
    final_error,
    guarded,
    json_of,
    locate,
    open_client,
)
from aevo.llm.model import Reply, ToolSchema
from aevo.llm.retry import EndpointError, Failure, Kind, OnRetry, failure_of, is_outage, patient
from aevo.llm.tokens import Window, characters, usage_of
from aevo.llm.wire import decode, describe, native_messages, native_tools, text_messages
from aevo.records.trace import Turn

_MAY_HAVE_MOVED = (
    Kind.CONNECTION,
    Kind.TIMEOUT,
    Kind.AUTH,
    Kind.NOT_FOUND,
    Kind.SERVER,
    Kind.MALFORMED,
)


class _Answer(NamedTuple):
    completion: Completion
    sent: int  # characters


class OpenAIModel:
    """Implements `aevo.llm.model.Model`. One instance per conversation.

    Args:
        on_retry: told of each retry and change of manner: kind, number of the failed try, seconds
            until the next, and what happened, in a line without keys.
        on_reasoning: told what a model thought before its reply; that is never sent back to it.
        on_outage: told, in a line without keys, that the endpoint keeps failing, once an outage,
            and that it answers again or was given up.
        seed: decides the jitter of waits.
        sleep, clock: for tests; the clock gives Unix seconds.

    Not guaranteed: tokens of failed tries are not counted, as no endpoint tells them; a whole
    body that drips in more slowly than `timeout_s` between two bytes is waited for.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        on_retry: OnRetry = lambda *_: None,
        on_reasoning: Callable[[str], None] = lambda _: None,
        on_outage: Callable[[str], None] = lambda _: None,
        seed: int = 0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings, self.on_retry, self.on_reasoning = settings, on_retry, on_reasoning
        self.on_outage = on_outage
        self.sleep, self.clock = sleep, clock
        self.keys = KeyHolder(settings.api_key_env, settings.api_key_file)
        self._rng = random.Random(seed)
        self._window = Window(settings.context_tokens, settings.max_tokens or 0)
        self._text = settings.tools == "text"
        self._tools_proven = False
        self._stream_usage, self._limit_name = True, "max_tokens"
        self._endpoint = None if settings.record else locate(settings)
        self._stale = False  # the record is to be read again
        self._out = False  # people were told of an outage
        self._client: openai.OpenAI | None = None

    @property
    def name(self) -> str:
        """The model's name at the endpoint; while a served agent's record is missing, its path."""
        if self._endpoint is None and self.settings.record is not None:
            try:
                return locate(self.settings).model
            except EndpointError:
                return f"the model served at {self.settings.record}"
        return self._endpoint.model if self._endpoint else self.settings.model or "unnamed"

    def complete(self, turns: list[Turn], tools: list[ToolSchema]) -> Reply:
        """Returns the next assistant turn; it may hold malformed calls (see `aevo.llm.answers`).

        Raises:
            EndpointError: the endpoint failed for good, or the model broke more than `MAX_REPAIRS`
                turns in a row (kind `malformed`).
        """
        answer = self._ask(turns, tools)
        completion = answer.completion
        usage = usage_of(completion.usage, self.settings, answer.sent, completion.characters)
        if isinstance(completion.usage, dict):
            self._window.learn(answer.sent, usage.tokens_in)
        if completion.reasoning:
            self.on_reasoning(sound(self.keys.clean(completion.reasoning)))
        turn = self._turn(completion, turns, tools)
        offered = {tool.name for tool in tools}
        if is_broken(turn, offered) and broken_in_a_row(turns, offered) >= MAX_REPAIRS:
            raise EndpointError(
                f"{self.name} sent no usable reply {MAX_REPAIRS + 1} times in a row, the last: "
                f"{self.keys.scrub(_gist(turn))}",
                "agent.tools=text may suit this model, or a larger agent.max_tokens; else it is "
                "too weak for this work",
                kind=Kind.MALFORMED,
                usage=usage,
            )
        return Reply(turn=turn, usage=usage)

    def _turn(self, completion: Completion, turns: list[Turn], tools: list[ToolSchema]) -> Turn:
        content, raw = completion.content, completion.calls
        if not raw and (self._text or self.settings.tools == "auto") and tools:
            prose, found = decode(content)
            # Some servers pass on calls in the text though tools were offered natively.
            if self._text or (
                found and all(call.name in {t.name for t in tools} for call in found)
            ):
                content, raw = prose, found
        calls = sound_calls(
            [call._replace(arguments=each_text(call.arguments, self.keys.clean)) for call in raw],
            turns,
        )
        content = sound(self.keys.clean(content))
        if not calls and completion.finish == "length":
            content = f"{content}\n{CUT}" if content else CUT
        return Turn(role="assistant", content=content or ("" if calls else EMPTY), tool_calls=calls)

    def _ask(self, turns: list[Turn], tools: list[ToolSchema]) -> _Answer:
        """Tries until an answer comes or patience ends."""
        retrying = patient(
            self.settings.retries, self.settings.max_wait_s, self._rng, self.sleep, self._waiting
        )
        outcome = retrying(
            lambda: self._attempt(turns, tools, retrying.statistics["attempt_number"])
        )
        if isinstance(outcome, Failure):
            number = retrying.statistics["attempt_number"]
            tries = f" after {number} tries" if number > 1 else ""
            self.on_outage(f"the endpoint is given up{tries}: {outcome.kind}: {outcome.text}")
            raise final_error(outcome, self._endpoint, self.keys, tries)
        if self._out:
            self.on_outage("the endpoint answers again")
        self._out = False
        return outcome

    def _waiting(self, state: RetryCallState) -> None:
        """Tells of a failed try before the wait for the next."""
        failure = failure_of(state)
        self.on_retry(failure.kind, state.attempt_number, state.upcoming_sleep, failure.text)
        if not self._out and is_outage(state):
            self._out = True
            self.on_outage(f"waiting for the endpoint: {failure.kind}: {failure.text}")

    def _attempt(
        self, turns: list[Turn], tools: list[ToolSchema], number: int
    ) -> _Answer | Failure:
        """One try; what the endpoint refuses for its form is asked at once in another."""
        tightened = False
        while True:
            overhead = len(describe(tools)) if self._text else len(json.dumps(native_tools(tools)))
            sent = self._window.fit(turns, overhead)
            outcome = self._try(self._body(sent, tools))
            if isinstance(outcome, Completion):
                self._tools_proven = self._tools_proven or bool(outcome.calls)
                return _Answer(outcome, characters(sent) + overhead)
            if not self._adapt(outcome, bool(tools)):
                if tightened or not outcome.context_exceeded:
                    return replace(outcome, moved=self._moved(outcome))
                tightened = True
                self._window.tighten(sent, overhead, outcome.context_limit)
                if self._window.fit(turns, overhead) == sent:
                    return outcome
            self.on_retry(outcome.kind, number, 0.0, outcome.text)

    def _body(self, turns: list[Turn], tools: list[ToolSchema]) -> dict[str, Any]:
        given = self.settings
        body: dict[str, Any] = {
            "messages": text_messages(turns, tools) if self._text else native_messages(turns),
            "stream": given.stream,
        }
        if tools and not self._text:
            body["tools"] = native_tools(tools)
        if given.stream and self._stream_usage:
            body["stream_options"] = {"include_usage": True}
        for name, value in (
            ("temperature", given.temperature),
            ("top_p", given.top_p),
            (self._limit_name, given.max_tokens),
        ):
            if value is not None:
                body[name] = value
        return body

    def _try(self, body: dict[str, Any]) -> Completion | Failure:
        """One request."""
        begin = self.clock()

        def request() -> Completion:
            client, endpoint = self._connect()
            raw = client.chat.completions.with_raw_response.create(
                model=endpoint.model, extra_body=self.settings.extra_body or None, **body
            )
            streamed = "event-stream" in raw.headers.get("content-type", "")
            if not (streamed and self.settings.stream):
                return from_body(json_of(raw.http_response))
            with raw.parse() as stream:
                return from_chunks(self._in_time(stream, begin))

        return guarded(request, self.clock, self.keys)

    def _in_time(self, stream: Any, begin: float) -> Any:
        """The chunks as dictionaries, within `timeout_s` of the call's begin."""
        for chunk in stream:
            if self.clock() - begin > self.settings.timeout_s:
                raise TimeoutError(f"no whole answer within {self.settings.timeout_s:g} s")
            if not isinstance(chunk, openai.BaseModel):
                raise BadAnswer(f"a chunk is no JSON object: {str(chunk)[:200]}")
            yield chunk.to_dict(warnings=False)

    def _connect(self) -> tuple[openai.OpenAI, Endpoint]:
        endpoint = self._endpoint
        if endpoint is None or self._stale:
            endpoint = locate(self.settings)
        self.keys.point_to(endpoint.api_key_file)
        key = self.keys.read() or NO_KEY
        client = self._client
        if client is None or self._stale or client.api_key != key or endpoint != self._endpoint:
            if client is not None:
                client.close()
            client = self._client = open_client(self.settings, endpoint, key)
            self._endpoint, self._stale = endpoint, False
        return client, endpoint

    def _moved(self, failure: Failure) -> bool:
        """True if the endpoint's record now tells another address than the one that failed."""
        if self.settings.record is None or failure.kind not in _MAY_HAVE_MOVED:
            return False
        self._stale = True
        try:
            return self._endpoint is not None and locate(self.settings) != self._endpoint
        except EndpointError:
            return False  # the next try says so

    def _adapt(self, failure: Failure, tools: bool) -> bool:
        """Changes the manner of asking to what the endpoint understands; each at most once."""
        given, told = self.settings, failure.text if failure.kind is Kind.BAD_REQUEST else ""
        if given.stream and self._stream_usage and "stream_options" in told:
            self._stream_usage = False
        elif (
            given.max_tokens
            and self._limit_name == "max_tokens"
            and ("max_completion_tokens" in told)
        ):
            self._limit_name = "max_completion_tokens"
        elif (
            failure.tools_refused
            and tools
            and given.tools == "auto"
            and not (self._text or self._tools_proven)
        ):
            self._text = True
        else:
            return False
        return True


def _gist(turn: Turn) -> str:
    if not turn.tool_calls:
        return turn.content
    return ", ".join(f"{call.name}({json.dumps(call.arguments)})" for call in turn.tool_calls)
