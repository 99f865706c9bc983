"""The client of OpenAI-compatible endpoints, against a real server that fails on demand."""

import json
import logging
import random
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from aevo.agent.completion import BadAnswer, Completion, Unfinished, apart, from_body, from_chunks
from aevo.agent.context import Window
from aevo.agent.model import ToolSchema
from aevo.agent.openai_model import OpenAIModel
from aevo.agent.preflight import check
from aevo.agent.pricing import usage_of
from aevo.agent.repair import (
    CUT,
    EMPTY,
    MALFORMED,
    MAX_REPAIRS,
    RawCall,
    complaint,
    parse,
    sound_calls,
)
from aevo.agent.retry import EndpointError, Failure, Kind, Patience, retry_after
from aevo.agent.settings import EndpointSettings, KeyHolder
from aevo.agent.text_protocol import decode, describe, native_messages, text_messages
from aevo.errors import ConfigError
from aevo.records.trace import ToolCall, Turn
from tests import fake_faults as fault
from tests.conftest import REPO
from tests.fake_openai import FakeOpenAI, says_hello

KEY = "sk-test-5f3759df0badc0de"
SYSTEM = Turn(role="system", content="You are a test.")
TASK = Turn(role="user", content="Do the task.")
OPENING = [SYSTEM, TASK]
READ = ToolSchema(name="read_file", description="Read a file.", parameters={
    "type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]})
RUN = ToolSchema(name="run", description="Run <it> & see.", parameters={
    "type": "object", "properties": {"command": {"type": "string"}}})
TOOLS = [READ, RUN]
both = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


class Waits:
    """Stands in for sleep and on_retry, and keeps what they were told."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.retries: list[tuple[Kind, int, float, str]] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def on_retry(self, kind: Kind, attempt: int, wait_s: float, text: str) -> None:
        self.retries.append((kind, attempt, wait_s, text))

    def kinds(self) -> list[Kind]:
        return [retry[0] for retry in self.retries]


@pytest.fixture
def waits() -> Waits:
    return Waits()


def settings(server: FakeOpenAI | None, **given: Any) -> EndpointSettings:
    where = {} if server is None else {"base_url": server.url, "model": server.model}
    return EndpointSettings.model_validate({**where, **given})


def client(server: FakeOpenAI, waits: Waits | None = None, **given: Any) -> OpenAIModel:
    waits = waits or Waits()
    return OpenAIModel(settings(server, **given), on_retry=waits.on_retry, sleep=waits.sleep)


def says(**reply: Any) -> Any:
    """A brain that always gives the same reply."""
    return lambda request: reply


def calls(*items: tuple[str, str, Any]) -> list[dict[str, Any]]:
    return [{"id": id_, "name": name, "arguments": arguments} for id_, name, arguments in items]


def conversation(*outputs: str, name: str = "read_file") -> list[Turn]:
    """Opening, then a call and its output for each of `outputs`."""
    turns = [*OPENING]
    for number, output in enumerate(outputs):
        call = ToolCall(id=f"id{number}", name=name, arguments={"path": f"f{number}"})
        turns += [Turn(role="assistant", content="", tool_calls=[call]),
                  Turn(role="tool", tool_call_id=call.id, content=output)]
    return turns


# --- replies -------------------------------------------------------------------------------------


@both
def test_plain_answer_and_its_usage(stream: bool) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 200,
             "prompt_tokens_details": {"cached_tokens": 400}}
    with FakeOpenAI(says(content="Grüße\nto all", usage=usage)) as server:
        model = client(server, stream=stream, price_in=3.0, price_out=15.0, price_cached=0.3,
                       temperature=0.5, top_p=0.9, max_tokens=64, extra_body={"seed": 7},
                       extra_headers={"X-Team": "aevo"})
        reply = model.complete(OPENING, [])
        assert reply.turn == Turn(role="assistant", content="Grüße\nto all")
        assert (reply.usage.tokens_in, reply.usage.tokens_out) == (1000, 200)
        assert reply.usage.dollars == pytest.approx((600 * 3 + 400 * 0.3 + 200 * 15) / 1e6)
        sent = server.chats()[0]
        assert (sent["temperature"], sent["top_p"], sent["max_tokens"]) == (0.5, 0.9, 64)
        assert sent["seed"] == 7 and "tools" not in sent and sent["stream"] is stream
        assert server.requests[0]["headers"]["x-team"] == "aevo"
        assert model.name == "fake-model"


@both
def test_tool_calls_with_text_several_at_once(stream: bool) -> None:
    given = calls(("a", "read_file", {"path": "x"}), ("b", "run", {"command": "echo 'ü\n'"}))
    with FakeOpenAI(says(content="Both.", tool_calls=given)) as server:
        turn = client(server, stream=stream).complete(OPENING, TOOLS).turn
        assert turn.content == "Both." and [call.id for call in turn.tool_calls] == ["a", "b"]
        assert turn.tool_calls[1].arguments == {"command": "echo 'ü\n'"}
        offered = server.chats()[0]["tools"]
        assert offered[0]["function"]["parameters"] == READ.parameters


@both
def test_ids_that_are_missing_or_used_are_replaced(stream: bool) -> None:
    given = calls(("", "run", {}), ("id0", "run", {}), ("same", "run", {}), ("same", "run", {}))
    with FakeOpenAI(says(tool_calls=given)) as server:
        turn = client(server, stream=stream).complete(conversation("out"), TOOLS).turn
        ids = [call.id for call in turn.tool_calls]
        assert len({"id0", *ids}) == 5 and "same" in ids and "" not in ids


@both
@pytest.mark.parametrize("raw", ['{"path": "x', "[1]", "no json", '"text"', "{'path': 'x'}",
                                 '{"path": NaN}', "[" * 50_000, '{"path": "x"} {"path": "y"}'])
def test_malformed_arguments_come_back_as_a_call_that_can_be_answered(
    stream: bool, raw: str
) -> None:
    with FakeOpenAI(says(tool_calls=calls(("a", "read_file", raw)))) as server:
        model = client(server, stream=stream)
        turn = model.complete(OPENING, TOOLS).turn
        call = turn.tool_calls[0]
        assert call.name == "read_file" and set(call.arguments) == {MALFORMED}
        assert "not a JSON object" in (complaint(call) or "")
        again = [*OPENING, turn, Turn(role="tool", tool_call_id="a", content="error")]
        model.complete(again, TOOLS)
        sent = server.chats()[1]["messages"][2]["tool_calls"][0]["function"]["arguments"]
        assert isinstance(json.loads(sent), dict)  # servers parse what is sent back to them


@pytest.mark.parametrize(("raw", "arguments"), [
    ("", {}), (None, {}), ('{"a": "two\nlines"}', {"a": "two\nlines"}),
    ('"{\\"a\\": 1}"', {"a": 1}), ('```json\n{"a": 1}\n```', {"a": 1}), ({"a": 1}, {"a": 1}),
])
def test_arguments_that_mean_something_are_understood(raw: Any, arguments: Any) -> None:
    assert parse(raw) == (arguments, "")


def test_half_a_surrogate_pair_does_not_reach_the_trace() -> None:
    call = sound_calls([RawCall("a", "run", '{"command": "\\ud83d"}')], [])[0]
    assert call.model_dump_json() and call.arguments == {"command": "?"}


@both
def test_thoughts_are_kept_apart_and_not_sent_back(stream: bool) -> None:
    thoughts: list[str] = []
    brains = iter([{"content": "A", "reasoning": "first"}, {"content": "<think>second</think>B"},
                   {"content": "third</think>C"}, {"content": "<think>fourth, unfinished",
                                                   "finish_reason": "length"}])
    with FakeOpenAI(lambda request: next(brains)) as server:
        model = OpenAIModel(settings(server, stream=stream), on_reasoning=thoughts.append)
        turns = [*OPENING]
        for _ in range(4):
            turns += [model.complete(turns, TOOLS).turn, Turn(role="user", content="on")]
        said = [turn.content for turn in turns if turn.role == "assistant"]
        assert said == ["A", "B", "C", CUT]
        assert thoughts == ["first", "second", "third", "fourth, unfinished"]
        sent = json.dumps(server.chats()[-1])
        assert not any(word in sent for word in ("first", "second", "third"))


def test_thoughts_in_the_middle_of_a_text_are_text() -> None:
    text = "the tag <think> opens, </think> closes"
    assert apart(Completion(content=text)).content == text


@both
def test_reply_cut_off_is_marked_and_half_a_call_is_malformed(stream: bool) -> None:
    cut = {"content": "once upon", "finish_reason": "length"}
    half = {"tool_calls": calls(("a", "run", '{"command": "ec')), "finish_reason": "length"}
    for given, check_turn in (
        (cut, lambda turn: turn.content == f"once upon\n{CUT}"),
        (half, lambda turn: MALFORMED in turn.tool_calls[0].arguments),
    ):
        with FakeOpenAI(says(**given)) as server:
            assert check_turn(client(server, stream=stream).complete(OPENING, TOOLS).turn)


@both
@pytest.mark.parametrize("given", [
    {"content": ""}, {"tool_calls": calls(("a", "run", "{"))},
    {"tool_calls": calls(("a", "sudo", {}))},
], ids=["empty", "malformed", "unknown"])
def test_broken_replies_in_a_row_are_bounded(stream: bool, given: dict[str, Any]) -> None:
    with FakeOpenAI(says(**given, usage={"prompt_tokens": 5, "completion_tokens": 2})) as server:
        turns = [*OPENING]
        for _ in range(MAX_REPAIRS):
            # A new client each time: the bound holds across restarts.
            turn = client(server, stream=stream).complete(turns, TOOLS).turn
            assert turn.tool_calls or turn.content == EMPTY
            turns.append(turn)
            turns += [Turn(role="tool", tool_call_id=call.id, content="error")
                      for call in turn.tool_calls]
        with pytest.raises(EndpointError, match="4 times in a row") as caught:
            client(server, stream=stream).complete(turns, TOOLS)
        assert caught.value.kind is Kind.MALFORMED and caught.value.code == 7
        assert caught.value.usage.tokens_out == 2
        good = ToolCall(id="good", name="run", arguments={})
        turns += [Turn(role="assistant", content="", tool_calls=[good]),
                  Turn(role="tool", tool_call_id="good", content="ok")]
        client(server, stream=stream).complete(turns, TOOLS)  # counted anew after a sound call


def test_streams_of_servers_that_number_calls_badly() -> None:
    def chunk(finish: str | None = None, *items: dict[str, Any]) -> dict[str, Any]:
        return {"choices": [{"delta": {"tool_calls": list(items)}, "finish_reason": finish}]}

    def piece(name: str, arguments: str, **more: Any) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": arguments}, **more}

    same_index = [chunk(None, piece("a", "{}", index=0, id="1")),
                  chunk("tool_calls", piece("b", "{}", index=0, id="2"))]
    no_ids = [chunk(None, piece("a", "{}", index=0)), chunk("stop", piece("b", "{}", index=0))]
    no_index = [chunk(None, piece("a", '{"x"', id="1")), chunk(None, piece("", ":1}", id="1")),
                chunk("stop", piece("b", "{}", id="2"))]
    repeating = [chunk(None, piece("a", "{", index=0, id="1")),
                 chunk(None, piece("a", "}", index=0, id="1")),
                 chunk("stop", piece("b", "{}", index=1, id="2"))]
    for chunks in (same_index, no_ids, no_index, repeating):
        found = from_chunks(chunks).calls
        assert [call.name for call in found] == ["a", "b"]
        assert all(parse(call.arguments)[0] is not None for call in found)
    with pytest.raises(Unfinished):
        from_chunks(no_index[:1])


@pytest.mark.parametrize("body", [None, [], "text", {}, {"choices": []}, {"choices": [None]},
                                  {"choices": [{"message": "hi"}]}])
def test_answers_that_are_none(body: Any) -> None:
    with pytest.raises(BadAnswer):
        from_body(body)


def test_usage_is_told_or_estimated() -> None:
    free = EndpointSettings()
    assert usage_of(None, free, 400, 80).model_dump() == {
        "tokens_in": 100, "tokens_out": 20, "dollars": 0.0}
    assert usage_of({"prompt_tokens": 7, "completion_tokens": 3, "cost": 0.25}, free, 0, 0
                    ).dollars == 0.25
    priced = EndpointSettings(price_in=1.0, price_out=2.0)
    told = {"prompt_tokens": 10, "completion_tokens": 10, "prompt_cache_hit_tokens": 99}
    assert usage_of(told, priced, 0, 0).dollars == pytest.approx(30 / 1e6)


@both
def test_usage_where_the_endpoint_tells_none(stream: bool) -> None:
    with FakeOpenAI(says(content="x" * 400, usage=None)) as server:
        usage = client(server, stream=stream).complete(OPENING, TOOLS).usage
        assert usage.tokens_out == 100 and usage.tokens_in > 50


# --- failures ------------------------------------------------------------------------------------


RETRIED = {
    "timeout": (fault.hang(60), Kind.TIMEOUT),
    "rate limit": (fault.rate_limited(), Kind.RATE_LIMIT),
    "overloaded": (fault.overloaded(), Kind.SERVER),
    "529": (fault.overloaded(529), Kind.SERVER),
    "dropped before headers": (fault.dropped("before"), Kind.CONNECTION),
    "dropped in the middle": (fault.dropped("middle"), Kind.CONNECTION),
    "web page": (fault.html(), Kind.MALFORMED),
    "web page 502": (fault.html(502), Kind.SERVER),
    "bad JSON": (fault.bad_json(), Kind.MALFORMED),
    "error in a 200": (fault.Fault(status=200, body={"error": {"message": "no", "code": 502}}),
                       Kind.SERVER),
    "408": (fault.error(408, "slow"), Kind.TIMEOUT),
}
FINAL = {
    "401": (fault.error(401, "bad key"), Kind.AUTH),
    "403": (fault.error(403, "not for you"), Kind.AUTH),
    "404": (fault.error(404, "no such model"), Kind.NOT_FOUND),
    "400": (fault.error(400, "temperature is out of range"), Kind.BAD_REQUEST),
    "422": (fault.error(422, "unprocessable"), Kind.BAD_REQUEST),
    "quota": (fault.quota(), Kind.QUOTA),
    "402": (fault.error(402, "no credit"), Kind.QUOTA),
}


@both
@pytest.mark.parametrize("name", RETRIED)
def test_passing_failure_is_retried_and_told(stream: bool, name: str, waits: Waits) -> None:
    given, kind = RETRIED[name]
    with FakeOpenAI(says_hello) as server:
        server.faults.add(given, given)
        model = client(server, waits, stream=stream, timeout_s=0.15 if "time" in name else 30)
        assert model.complete(OPENING, []).turn.content == "hello, 2 messages"
        assert waits.kinds() == [kind, kind] and [retry[1] for retry in waits.retries] == [1, 2]
        assert waits.slept == [retry[2] for retry in waits.retries]
        assert waits.slept[0] <= 1 and waits.slept[1] <= 2


@both
@pytest.mark.parametrize("name", FINAL)
def test_lasting_failure_is_not_retried(stream: bool, name: str, waits: Waits) -> None:
    given, kind = FINAL[name]
    with FakeOpenAI(says_hello) as server:
        server.faults.add(given)
        with pytest.raises(EndpointError) as caught:
            client(server, waits, stream=stream).complete(OPENING, TOOLS)
        assert caught.value.kind is kind and caught.value.code == 7
        text = str(caught.value)
        assert "\n" not in text and server.url in text and "fake-model" in text and " -- " in text
        assert not waits.slept and len(server.chats()) == 1


def test_stream_that_ends_early_without_a_word_is_a_lost_connection(waits: Waits) -> None:
    with FakeOpenAI(says(content="a long answer " * 20)) as server:
        server.faults.add(fault.dropped("quietly"))
        turn = client(server, waits).complete(OPENING, []).turn
        assert waits.kinds() == [Kind.CONNECTION] and turn.content.count("long") == 20


def test_stream_may_not_last_longer_than_its_time(waits: Waits) -> None:
    ticks = iter(range(0, 10_000, 40))
    with FakeOpenAI(says(content="x" * 500)) as server:
        model = OpenAIModel(settings(server, timeout_s=100, retries=0), sleep=waits.sleep,
                            clock=lambda: float(next(ticks)))
        with pytest.raises(EndpointError, match="no whole answer within 100 s") as caught:
            model.complete(OPENING, [])
        assert caught.value.kind is Kind.TIMEOUT


def test_retries_and_waits_are_bounded(waits: Waits) -> None:
    with FakeOpenAI(says_hello) as server:
        server.faults.add(fault.overloaded(times=-1))
        with pytest.raises(EndpointError, match="server after 4 tries"):
            client(server, waits, retries=3).complete(OPENING, [])
        assert len(server.chats()) == 4 and len(waits.slept) == 3
        waits.slept.clear()
        with pytest.raises(EndpointError):
            client(server, waits, retries=1000, max_wait_s=100).complete(OPENING, [])
        assert sum(waits.slept) == pytest.approx(100)


def test_connection_refused_is_told_with_the_address(waits: Waits) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refused, and nobody else's
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        given = EndpointSettings(base_url=url, model="m", retries=2)
        with pytest.raises(EndpointError, match=r"connection after 3 tries.*refused") as caught:
            OpenAIModel(given, sleep=waits.sleep).complete(OPENING, [])
    assert caught.value.kind is Kind.CONNECTION and url in str(caught.value)


@pytest.mark.parametrize("header", ["seconds", "date", "milliseconds"])
def test_retry_after_is_honoured_and_bounded(header: str, waits: Waits) -> None:
    now = 1_700_000_000.0
    value = {"seconds": {"Retry-After": "7"}, "milliseconds": {"retry-after-ms": "7000"},
             "date": {"Retry-After": formatdate(now + 7, usegmt=True)}}[header]
    with FakeOpenAI(says_hello) as server:
        server.faults.add(fault.error(429, "slow down", headers=value))
        model = OpenAIModel(settings(server), sleep=waits.sleep, clock=lambda: now)
        model.complete(OPENING, [])
        assert 7 <= waits.slept[0] <= 8
        server.faults.add(fault.rate_limited(3600))
        model = OpenAIModel(settings(server, max_wait_s=20), sleep=waits.sleep)
        model.complete(OPENING, [])
        assert waits.slept[1] == 20
    assert retry_after({"Retry-After": "soon"}, now) is None
    assert retry_after({"Retry-After": formatdate(now - 9, usegmt=True)}, now) == 0


def test_jitter_is_full_seeded_and_grows() -> None:
    def waited(seed: int) -> list[float]:
        patience = Patience(8, 1e9, random.Random(seed))
        return [patience.next_wait(Failure(Kind.SERVER, "")) or 0.0 for _ in range(8)]

    assert waited(1) == waited(1) != waited(2)
    many = [waited(seed) for seed in range(200)]
    for step, bound in enumerate((1, 2, 4, 8, 16, 32, 60, 60)):
        values = [waits[step] for waits in many]
        assert max(values) <= bound and max(values) > 0.9 * bound and min(values) < 0.1 * bound


def test_what_an_endpoint_does_not_understand_is_left_out(waits: Waits) -> None:
    with FakeOpenAI(says(content="x" * 40)) as server:
        server.faults.add(
            fault.error(400, "Unrecognized argument: stream_options", match='"stream_options"'),
            fault.error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.",
                        match='"max_tokens"'))
        reply = client(server, waits, max_tokens=50).complete(OPENING, [])
        last = server.chats()[-1]
        assert "stream_options" not in last and last["max_completion_tokens"] == 50
        assert reply.usage.tokens_out == 10 and not waits.slept and len(waits.retries) == 2


# --- a served agent that moves -------------------------------------------------------------------


def leave(path: Path, server: FakeOpenAI, **more: Any) -> None:
    path.write_text(json.dumps({"schema_version": 1, "base_url": server.url,
                                "model": server.model, "job": 12, **more}))


def test_record_is_read_again_when_the_server_has_moved(tmp_path: Path, waits: Waits) -> None:
    record, keys = tmp_path / "agent-endpoint.json", tmp_path / "key"
    keys.write_text(KEY + "\n")
    keys.chmod(0o600)
    given = EndpointSettings(record=str(record), retries=3)
    model = OpenAIModel(given, on_retry=waits.on_retry, sleep=waits.sleep)
    with FakeOpenAI(says_hello) as second:
        with FakeOpenAI(says_hello) as first:
            leave(record, first)
            model.complete(OPENING, [])
        second.key, second.models = KEY, ["another"]
        first.closing.wait(1)
        leave(record, second, api_key_file=str(keys))
        assert model.complete(OPENING, []).turn.content == "hello, 2 messages"
        assert second.requests[0]["authorized"] and model.name == "another"
        assert len(second.chats()) == 1 and set(waits.kinds()) <= {Kind.CONNECTION}


def test_record_that_is_missing_is_waited_for(tmp_path: Path) -> None:
    record = tmp_path / "agent-endpoint.json"
    with FakeOpenAI(says_hello) as server:
        model = OpenAIModel(EndpointSettings(record=str(record)),
                            sleep=lambda _: leave(record, server))
        assert str(record) in model.name
        assert model.complete(OPENING, []).turn.content
        record.unlink()
        with pytest.raises(EndpointError, match=r"is missing.*serve_agent") as caught:
            check(EndpointSettings(record=str(record)))
        assert caught.value.kind is Kind.CONNECTION
        record.write_text('{"schema_version": 1, "base_url": "nonsense", "model": "m"}')
        with pytest.raises(EndpointError, match="base_url"):
            check(EndpointSettings(record=str(record)))


# --- context -------------------------------------------------------------------------------------


def test_old_outputs_are_left_out_oldest_first_never_what_must_stay() -> None:
    turns = conversation(*[f"{number}" * 4000 for number in range(8)])
    window = Window(6000)
    sent = window.fit(turns)
    assert window.estimate(turns) > 6000 >= window.estimate(sent)
    assert sent[:2] == OPENING and sent[-6:] == turns[-6:] and len(sent) == len(turns)
    markers = [turn.content.startswith("[output of read_file") for turn in sent
               if turn.role == "tool"]
    assert markers == sorted(markers, reverse=True) and 0 < sum(markers) < 8
    assert "4000 characters" in sent[3].content
    more = [*turns, *conversation("9" * 300)[2:]]
    assert window.fit(more)[: len(sent) - 6] == sent[:-6]  # stays as it was: prompt caches


def test_short_conversation_is_sent_as_it_is() -> None:
    turns = conversation("short", "x" * 4000)
    assert Window(6000).fit(turns) == turns


def test_long_arguments_of_old_calls_go_when_outputs_do_not_suffice() -> None:
    turns = [*OPENING]
    for number in range(8):
        call = ToolCall(id=f"w{number}", name="write_file",
                        arguments={"path": "a.py", "content": "x" * 4000})
        turns += [Turn(role="assistant", content="", tool_calls=[call]),
                  Turn(role="tool", tool_call_id=call.id, content="written")]
    window = Window(6000)
    sent = window.fit(turns)
    assert window.estimate(sent) <= 6000 and sent[-6:] == turns[-6:]
    assert sent[2].tool_calls[0].arguments == {
        "path": "a.py", "content": "[left out to save room: 4000 characters]"}


def test_estimate_follows_what_the_endpoint_counts() -> None:
    dense = {"prompt_tokens": 12_000, "completion_tokens": 1}  # about one token a character
    turns = conversation(*["x" * 2000 for _ in range(6)])
    with FakeOpenAI(says(content="ok", usage=dense)) as server:
        model = client(server, context_tokens=8000)
        model.complete(turns, TOOLS)
        model.complete(turns, TOOLS)
        first, second = (json.dumps(body["messages"]) for body in server.chats())
        assert len(second) < len(first) and "left out" in second and "left out" not in first


@both
def test_context_exceeded_is_answered_by_trimming_harder_once(stream: bool, waits: Waits) -> None:
    turns = conversation(*["x" * 3000 for _ in range(6)])
    with FakeOpenAI(says_hello, context_tokens=2500) as server:
        model = client(server, waits, stream=stream)
        assert "hello" in model.complete(turns, TOOLS).turn.content
        assert waits.kinds() == [Kind.BAD_REQUEST] and len(server.chats()) == 2
        model.complete(turns, TOOLS)
        assert len(server.chats()) == 3  # remembered


def test_output_longer_than_the_context_is_shortened_when_refused() -> None:
    with FakeOpenAI(says_hello, context_tokens=2500) as server:
        turns = conversation("head" + "x" * 100_000 + "tail")
        client(server).complete(turns, TOOLS)
        content = server.chats()[-1]["messages"][-1]["content"]
        assert content.startswith("head") and content.endswith("tail")


def test_context_exceeded_for_good_says_so(waits: Waits) -> None:
    with FakeOpenAI(says_hello) as server:
        server.faults.add(fault.context_exceeded(times=-1))
        with pytest.raises(EndpointError, match=r"lower agent\.context_tokens"):
            client(server, waits).complete(conversation("x" * 9000, "x" * 9000), TOOLS)
        assert len(server.chats()) == 2 and not waits.slept
        with pytest.raises(EndpointError):
            client(server, waits).complete(OPENING, TOOLS)  # nothing to trim: asked once
        assert len(server.chats()) == 3


# --- text protocol -------------------------------------------------------------------------------


BLOCK = """I look.

```tool
{"name": "read_file", "arguments": {"path": "a"}}
```
Result: made up"""


@both
def test_models_without_tool_calls_use_the_text_protocol(stream: bool, waits: Waits) -> None:
    with FakeOpenAI(says(content=BLOCK), native_tools=False) as server:
        model = client(server, waits, stream=stream)
        turn = model.complete(OPENING, TOOLS).turn
        assert turn.content == "I look." and turn.tool_calls[0].arguments == {"path": "a"}
        assert waits.kinds() == [Kind.BAD_REQUEST] and not waits.slept
        turns = [*OPENING, turn,
                 Turn(role="tool", tool_call_id=turn.tool_calls[0].id, content="its text")]
        model.complete(turns, TOOLS)
        assert len(server.chats()) == 3  # native calls were not tried again
        sent = server.chats()[-1]
        assert "tools" not in sent
        assert [message["role"] for message in sent["messages"]] == [
            "system", "user", "assistant", "user"]
        assert sent["messages"][0]["content"].startswith(SYSTEM.content)
        assert "Run <it> & see." in sent["messages"][0]["content"]
        assert json.dumps(READ.parameters) in sent["messages"][0]["content"]
        assert sent["messages"][3]["content"] == "Result of read_file:\nits text"
        assert decode(sent["messages"][2]["content"])[1][0].arguments == {"path": "a"}


def test_native_only_says_what_to_set(waits: Waits) -> None:
    with FakeOpenAI(says_hello, native_tools=False) as server, pytest.raises(
        EndpointError, match=r"does not support tools -- agent\.tools=text"
    ):
        client(server, waits, tools="native").complete(OPENING, TOOLS)


def test_calls_in_the_text_of_a_native_reply_are_understood() -> None:
    tagged = '<tool_call>{"name": "run", "arguments": {"command": "ls"}}</tool_call>'
    with FakeOpenAI(says(content=tagged)) as server:
        turn = client(server).complete(OPENING, TOOLS).turn
        assert turn.tool_calls[0].arguments == {"command": "ls"} and turn.content == ""
        turn = client(server, tools="native").complete(OPENING, TOOLS).turn
        assert not turn.tool_calls and turn.content == tagged
        assert not client(server).complete(OPENING, [READ]).turn.tool_calls  # offered: no `run`


@pytest.mark.parametrize(("text", "names", "malformed"), [
    ('<tool_call>\n{"name": "run", "arguments": {}}\n</tool_call>', ["run"], False),
    ('```tool_call\n{"name": "run", "parameters": {"command": "x"}}\n```', ["run"], False),
    ('a\n```tool\n{"name": "run"}\n```\nb\n```tool\n{"name": "read_file"}\n```',
     ["run", "read_file"], False),
    ('```tool\n{"name": "run", "arguments": {"command": "a\nb"}}\n```', ["run"], False),
    ('```tool\n{"name": "run", "arguments": {"command": "echo ```x```"}}\n```', ["run"], False),
    ('```tool\n{"name": "run", "arguments": {"command": "ec', ["run"], True),
    ("```tool\nrun ls\n```", ["unnamed"], True),
    ("```tool\n```", ["unnamed"], True),
    ('<tool_call>["run"]</tool_call>', ["unnamed"], True),
    ("no call, ```python\nprint()\n```", [], False),
])
def test_blocks_of_the_text_protocol(text: str, names: list[str], malformed: bool) -> None:
    found = sound_calls(decode(text)[1], [])
    assert [call.name for call in found] == names
    assert any(MALFORMED in call.arguments for call in found) is malformed


def test_text_messages_alternate_and_show_a_malformed_call_as_it_was() -> None:
    bad = ToolCall(id="b", name="run", arguments={MALFORMED: "{oops"})
    turns = [*conversation("one"), Turn(role="assistant", content="", tool_calls=[bad]),
             Turn(role="tool", tool_call_id="b", content="error"),
             Turn(role="user", content="go on")]
    messages = text_messages(turns, TOOLS)
    assert [message["role"] for message in messages[1:]] == ["user", "assistant"] * 2 + ["user"]
    assert "{oops" in messages[4]["content"] and messages[5]["content"].endswith("go on")
    assert text_messages([TASK], TOOLS)[0]["role"] == "system"
    assert describe([]) == "" and native_messages([TASK]) == [
        {"role": "user", "content": TASK.content}]


# --- keys ----------------------------------------------------------------------------------------


@pytest.fixture
def key_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    path.chmod(0o600)
    yield path


def everything_in(error: BaseException) -> str:
    """All that a log or a debugger could show of an exception and its chain."""
    seen: list[str] = []
    link: BaseException | None = error
    while link is not None:
        seen += [str(link), repr(link), repr(link.args), repr(vars(link))]
        link = link.__cause__ or link.__context__
    return "\n".join(seen)


@both
@pytest.mark.parametrize("given", [
    fault.error(401, f"Incorrect key, Authorization: Bearer {KEY}"),
    fault.error(400, f"bad header {KEY}"),
    fault.error(500, f"trace: headers={{'authorization': 'Bearer {KEY}'}}", times=-1),
    fault.Fault(status=200, body=f"<html>{KEY}</html>", times=-1),
    fault.Fault(status=403, body=f"{'x' * 270} {KEY}"),
    fault.Fault(status=200, body={"error": {"message": KEY}}, times=-1),
    fault.hang(60, times=-1), fault.dropped("before", times=-1), fault.dropped("middle", times=-1),
], ids=lambda given: f"{given.status}{given.drop}{given.delay_s:g}")
def test_key_is_in_no_message_log_or_exception(
    stream: bool, given: fault.Fault, key_file: Path, waits: Waits,
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    with FakeOpenAI(says_hello, key=KEY) as server:
        server.faults.add(given)
        model = client(server, waits, stream=stream, api_key_file=str(key_file), retries=1,
                       timeout_s=0.15 if given.delay_s else 30)
        with pytest.raises(EndpointError) as caught:
            model.complete(OPENING, [])
        assert server.requests[0]["authorized"]
        everything = [everything_in(caught.value), repr(waits.retries), repr(server.requests),
                      caplog.text, repr([vars(entry) for entry in caplog.records]),
                      *capfd.readouterr(), repr(model), repr(vars(model)), str(vars(model))]
        assert all(KEY not in text and KEY[:12] not in text for text in everything)
        assert caught.value.__cause__ is None and caught.value.__context__ is None


@both
def test_key_that_a_server_says_back_does_not_reach_the_trace(
    stream: bool, key_file: Path
) -> None:
    given = {"content": f"your key is {KEY}", "reasoning": KEY,
             "tool_calls": calls(("a", "run", {"command": f"echo {KEY}"}), ("b", "run", KEY))}
    thoughts: list[str] = []
    with FakeOpenAI(says(**given)) as server:
        model = OpenAIModel(settings(server, stream=stream, api_key_file=str(key_file)),
                            on_reasoning=thoughts.append)
        reply = model.complete(OPENING, TOOLS)
        assert KEY not in reply.model_dump_json() + "".join(thoughts)


def test_key_comes_from_variable_or_file_and_is_read_at_use(
    monkeypatch: pytest.MonkeyPatch, key_file: Path
) -> None:
    monkeypatch.setenv("MY_KEY", "another-key")
    with FakeOpenAI(says_hello, key=KEY) as server:
        model = client(server, api_key_env="MY_KEY")
        with pytest.raises(EndpointError, match="check the key in the environment variable MY_KEY"):
            model.complete(OPENING, [])
        monkeypatch.setenv("MY_KEY", KEY)
        assert model.complete(OPENING, []).turn.content
        assert client(server, api_key_file=str(key_file)).complete(OPENING, []).turn.content
        monkeypatch.delenv("MY_KEY")
        with pytest.raises(EndpointError, match=r"no key was sent: put it in the env.*MY_KEY"):
            model.complete(OPENING, [])
        assert "another-key" not in json.dumps(server.requests)


def test_key_file_open_to_others_or_without_a_key_is_refused(key_file: Path) -> None:
    holder = KeyHolder(None, str(key_file))
    assert holder.read() == KEY and KEY not in repr(holder) + str(holder) + f"{holder!r}"
    assert holder.clean(f"a {KEY} b") == "a [hidden] b"
    with pytest.raises(TypeError):
        import pickle
        pickle.dumps(holder)
    for content in ("", "two words", "line\nline", "ключ"):
        key_file.write_text(content)
        with pytest.raises(EndpointError, match="no usable key") as caught:
            holder.read()
        assert caught.value.kind is Kind.AUTH and (not content or content not in str(caught.value))
    key_file.chmod(0o640)
    with pytest.raises(EndpointError, match=f"mode 0640.*chmod 600 {key_file}"):
        holder.read()
    key_file.unlink()
    with pytest.raises(EndpointError, match="cannot be read"):
        holder.read()


# --- preflight and settings ----------------------------------------------------------------------


def test_preflight_passes_where_work_can_begin(key_file: Path) -> None:
    with FakeOpenAI(says_hello, key=KEY, models=["big", "small"]) as server:
        check(settings(server, api_key_file=str(key_file)))
        assert not server.chats()  # listing the models was enough
        server.public_models = True
        check(settings(server, api_key_file=str(key_file)))
        assert server.chats()[-1]["max_tokens"] == 1  # the list proves nothing about the key
        server.list_models = False
        check(settings(server, api_key_file=str(key_file)))
        server.faults.add(fault.error(400, "max_tokens must be at least 16"))
        check(settings(server, api_key_file=str(key_file)))
        server.faults.add(fault.rate_limited(5))
        check(settings(server, api_key_file=str(key_file)))
    with FakeOpenAI(says_hello) as server:
        check(settings(server))


@pytest.mark.parametrize(("server_given", "given", "kind", "expected"), [
    ({"key": "x"}, {}, Kind.AUTH, "check the key in the file"),
    ({"key": "x", "public_models": True}, {}, Kind.AUTH, "check the key"),
    ({"key": "x", "list_models": False}, {}, Kind.AUTH, "check the key"),
    ({"key": "x"}, {"api_key_file": None}, Kind.AUTH, "no key was sent: put it in agent.api_key"),
    ({"models": ["llama-3-8b", "qwen"]}, {"model": "llama-3-70b"}, Kind.NOT_FOUND,
     "has no model llama-3-70b -- it has llama-3-8b, qwen"),
    ({"list_models": False}, {"model": "other"}, Kind.NOT_FOUND, "`other` does not exist"),
    ({}, {"base_url": "/v2"}, Kind.NOT_FOUND, "most end in /v1"),
    ({}, {"base_url": ""}, Kind.NOT_FOUND, "most end in /v1"),
])
def test_preflight_says_in_one_line_what_is_wrong(
    server_given: dict[str, Any], given: dict[str, Any], kind: Kind, expected: str, key_file: Path
) -> None:
    with FakeOpenAI(says_hello, **server_given) as server:
        given = {"api_key_file": str(key_file), **given}
        if "base_url" in given:
            given["base_url"] = server.url.removesuffix("/v1") + given["base_url"]
        with pytest.raises(EndpointError) as caught:
            check(settings(server, **given))
        text = str(caught.value)
        assert caught.value.kind is kind and expected in text and "\n" not in text
        assert KEY not in everything_in(caught.value) and server.url.removesuffix("/v1") in text


@pytest.mark.parametrize(("given", "kind"), [
    (fault.html(path="/models", times=-1), Kind.MALFORMED), (fault.overloaded(), Kind.SERVER),
    (fault.dropped("before"), Kind.CONNECTION), (fault.quota(), Kind.QUOTA),
    (fault.hang(60, times=-1), Kind.TIMEOUT),
])
def test_preflight_of_a_sick_endpoint(given: fault.Fault, kind: Kind) -> None:
    chat = fault.Fault(**{**fault.plain(given), "path": "/chat/completions"})
    models = fault.Fault(**{**fault.plain(given), "path": "/models"})
    with FakeOpenAI(says_hello) as server:
        server.faults.add(models, chat)
        with pytest.raises(EndpointError) as caught:
            check(settings(server, timeout_s=0.15 if kind is Kind.TIMEOUT else 30))
        assert caught.value.kind is kind


@pytest.mark.parametrize(("given", "expected"), [
    ({"base_url": "api.example.org/v1"}, "https://HOST/v1"),
    ({"base_url": "ftp://h/v1"}, "https://HOST/v1"),
    ({"base_url": "http://h:99999/v1"}, "https://HOST/v1"),
    ({"base_url": "https://user:pass@h/v1"}, "api_key_env or api_key_file"),
    ({"base_url": "https://h/v1/chat/completions"}, "leave out what follows /v1"),
    ({"extra_headers": {"Authorization": "Bearer x"}}, "looks like a secret"),
    ({"extra_headers": {"X-Api-Key": "x"}}, "looks like a secret"),
    ({"tools": "maybe"}, "tools"), ({"retries": -1}, "retries"), ({"nonsense": 1}, "nonsense"),
])
def test_settings_refuse_what_cannot_be_meant(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        EndpointSettings.model_validate(given)


def test_address_and_model_must_be_given() -> None:
    for given, name in (({}, "base_url"), ({"base_url": "https://h/v1"}, "model")):
        with pytest.raises(ConfigError, match=rf"agent\.{name} is not set"):
            check(EndpointSettings.model_validate(given))
        with pytest.raises(ConfigError):
            OpenAIModel(EndpointSettings.model_validate(given))


@pytest.mark.parametrize("name", ["openai", "vllm"])
def test_config_files_name_every_setting_with_a_comment(name: str) -> None:
    path = REPO / "conf" / "agent" / f"{name}.yaml"
    given = yaml.safe_load(path.read_text())
    EndpointSettings.model_validate(given)
    assert set(given) == set(EndpointSettings.model_fields)
    for line in path.read_text().splitlines():
        assert "#" in line, line


# --- the server as a command ---------------------------------------------------------------------


def test_server_as_a_command_for_several_processes(tmp_path: Path) -> None:
    record, log = tmp_path / "agent-endpoint.json", tmp_path / "requests.jsonl"
    argv = [sys.executable, "-m", "tests.fake_openai", "--port", "0", "--brain",
            "tests.fake_openai:says_hello", "--record", str(log), "--endpoint", str(record)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=REPO) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            model = OpenAIModel(EndpointSettings(record=str(record)), sleep=lambda _: None)
            data = json.dumps([fault.plain(fault.overloaded())]).encode()
            urllib.request.urlopen(f"{url.removesuffix('/v1')}/fake/faults", data).close()
            assert model.complete(OPENING, []).turn.content == "hello, 2 messages"
            entries = [json.loads(line) for line in log.read_text().splitlines()]
            assert len(entries) == 2 and entries[0]["body"]["messages"][0]["role"] == "system"
        finally:
            process.terminate()
