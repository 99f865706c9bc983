"""Failures of an endpoint, each caused for real: classified, retried with an end, told."""

import json
import random
import socket
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from aevo.config.agent import EndpointSettings
from aevo.llm.client import OpenAIModel
from aevo.llm.preflight import check
from aevo.llm.retry import EndpointError, Failure, Kind, patient, retry_after
from tests.support import fake_faults as fault
from tests.support.fake_openai import FakeOpenAI, says_hello
from tests.support.openai_support import (
    KEY,
    OPENING,
    TOOLS,
    Waits,
    both,
    client,
    says,
    settings,
    waits,
)

__all__ = ["waits"]  # a fixture, used by its name


# --- failures -------------------------------------------------------------------------------------


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
    "error in a 200": (
        fault.Fault(status=200, body={"error": {"message": "no", "code": 502}}),
        Kind.SERVER,
    ),
    "error in a stream": (
        fault.Fault(
            status=200,
            headers={"Content-Type": "text/event-stream"},
            body='data: {"error": {"message": "overloaded"}}\n\n',
        ),
        Kind.SERVER,
    ),
    "bad JSON in a stream": (
        fault.Fault(
            status=200,
            headers={"Content-Type": "text/event-stream"},
            body='data: {"choices": [{"delta": {"conte\n\n',
        ),
        Kind.MALFORMED,
    ),
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
    if "in a stream" in name and not stream:
        kind = Kind.MALFORMED  # a stream was not asked for
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


def test_whole_answer_in_place_of_a_stream_is_understood(waits: Waits) -> None:
    body = {"choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}]}
    with FakeOpenAI(says_hello) as server:
        server.faults.add(fault.Fault(status=200, body=body))
        assert client(server, waits, stream=True).complete(OPENING, []).turn.content == "whole"
        assert not waits.retries


def test_caller_may_end_the_waiting() -> None:
    class TimeIsUp(Exception):
        pass

    def stop(*_: object) -> None:
        raise TimeIsUp

    with FakeOpenAI(says_hello) as server, pytest.raises(TimeIsUp):
        server.faults.add(fault.overloaded())
        OpenAIModel(settings(server), on_retry=stop).complete(OPENING, [])


def test_stream_that_ends_early_without_a_word_is_a_lost_connection(waits: Waits) -> None:
    with FakeOpenAI(says(content="a long answer " * 20)) as server:
        server.faults.add(fault.dropped("quietly"))
        turn = client(server, waits).complete(OPENING, []).turn
        assert waits.kinds() == [Kind.CONNECTION] and turn.content.count("long") == 20


def test_stream_may_not_last_longer_than_its_time(waits: Waits) -> None:
    ticks = iter(range(0, 10_000, 40))
    with FakeOpenAI(says(content="x" * 500)) as server:
        model = OpenAIModel(
            settings(server, timeout_s=100, retries=0),
            sleep=waits.sleep,
            clock=lambda: float(next(ticks)),
        )
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


def test_an_outage_is_told_once_and_its_end_too() -> None:
    told: list[str] = []
    with FakeOpenAI(says_hello) as server:
        model = OpenAIModel(
            settings(server, retries=3), on_outage=told.append, sleep=lambda _: None
        )
        server.faults.add(fault.overloaded())
        model.complete(OPENING, [])
        assert not told  # once may happen
        server.faults.add(fault.overloaded(times=3))
        model.complete(OPENING, [])
        assert told == [
            "waiting for the endpoint: server: HTTP 503: The server is overloaded",
            "the endpoint answers again",
        ]
        server.faults.add(fault.rate_limited(60))
        model.complete(OPENING, [])
        assert "rate_limit" in told[2] and len(told) == 4  # one wait, but a long one
        server.faults.add(fault.overloaded(times=-1))
        with pytest.raises(EndpointError):
            model.complete(OPENING, [])
        assert told[5] == (
            "the endpoint is given up after 4 tries: server: HTTP 503: The server is overloaded"
        )


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
    value = {
        "seconds": {"Retry-After": "7"},
        "milliseconds": {"retry-after-ms": "7000"},
        "date": {"Retry-After": formatdate(now + 7, usegmt=True)},
    }[header]
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
        slept: list[float] = []
        patient(8, 1e9, random.Random(seed), slept.append)(lambda: Failure(Kind.SERVER, ""))
        return slept

    assert waited(1) == waited(1) != waited(2)
    many = [waited(seed) for seed in range(200)]
    for step, bound in enumerate((1, 2, 4, 8, 16, 32, 60, 60)):
        values = [waits[step] for waits in many]
        assert max(values) <= bound and max(values) > 0.9 * bound and min(values) < 0.1 * bound


def test_what_an_endpoint_does_not_understand_is_left_out(waits: Waits) -> None:
    with FakeOpenAI(says(content="x" * 40)) as server:
        server.faults.add(
            fault.error(400, "Unrecognized argument: stream_options", match='"stream_options"'),
            fault.error(
                400,
                "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.",
                match='"max_tokens"',
            ),
        )
        reply = client(server, waits, max_tokens=50).complete(OPENING, [])
        last = server.chats()[-1]
        assert "stream_options" not in last and last["max_completion_tokens"] == 50
        assert reply.usage.tokens_out == 10 and not waits.slept and len(waits.retries) == 2


# --- a served agent that moves --------------------------------------------------------------------


def leave(path: Path, server: FakeOpenAI, **more: Any) -> None:
    path.write_text(
        json.dumps(
            {"schema_version": 1, "base_url": server.url, "model": server.model, "job": 12, **more}
        )
    )


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
        model = OpenAIModel(
            EndpointSettings(record=str(record)), sleep=lambda _: leave(record, server)
        )
        assert str(record) in model.name
        assert model.complete(OPENING, []).turn.content
        record.unlink()
        with pytest.raises(EndpointError, match=r"is missing.*serve_agent") as caught:
            check(EndpointSettings(record=str(record)))
        assert caught.value.kind is Kind.CONNECTION
        record.write_text('{"schema_version": 1, "base_url": "nonsense", "model": "m"}')
        with pytest.raises(EndpointError, match="base_url"):
            check(EndpointSettings(record=str(record)))
