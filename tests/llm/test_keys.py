"""Keys that show up nowhere, the preflight, the settings, and the fake server as a command."""

import json
import logging
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from aevo.config.agent import EndpointSettings
from aevo.errors import ConfigError
from aevo.llm.client import OpenAIModel
from aevo.llm.endpoint import KeyHolder
from aevo.llm.preflight import check
from aevo.llm.retry import EndpointError, Kind
from tests.conftest import REPO
from tests.support import fake_faults as fault
from tests.support.fake_openai import FakeOpenAI, says_hello
from tests.support.openai_support import (
    KEY,
    OPENING,
    TOOLS,
    Waits,
    both,
    calls,
    client,
    says,
    settings,
    waits,
)

__all__ = ["waits"]  # a fixture, used by its name


# --- keys -----------------------------------------------------------------------------------------


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
@pytest.mark.parametrize(
    "given",
    [
        fault.error(401, f"Incorrect key, Authorization: Bearer {KEY}"),
        fault.error(400, f"bad header {KEY}", headers={"X-Echo": f"Bearer {KEY}"}),
        fault.error(500, f"trace: headers={{'authorization': 'Bearer {KEY}'}}", times=-1),
        fault.Fault(status=200, body=f"<html>{KEY}</html>", times=-1),
        fault.Fault(status=403, body=f"{'x' * 270} {KEY}"),
        fault.Fault(status=200, body={"error": {"message": KEY}}, times=-1),
        fault.hang(60, times=-1),
        fault.dropped("before", times=-1),
        fault.dropped("middle", times=-1),
    ],
    ids=lambda given: f"{given.status}{given.drop}{given.delay_s:g}",
)
def test_key_is_in_no_message_log_or_exception(
    stream: bool,
    given: fault.Fault,
    key_file: Path,
    waits: Waits,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    with FakeOpenAI(says_hello, key=KEY) as server:
        server.faults.add(given)
        model = client(
            server,
            waits,
            stream=stream,
            api_key_file=str(key_file),
            retries=1,
            timeout_s=0.15 if given.delay_s else 30,
        )
        with pytest.raises(EndpointError) as caught:
            model.complete(OPENING, [])
        assert server.requests[0]["authorized"]
        everything = [
            everything_in(caught.value),
            repr(waits.retries),
            repr(server.requests),
            caplog.text,
            repr([vars(entry) for entry in caplog.records]),
            *capfd.readouterr(),
            repr(model),
            repr(vars(model)),
            str(vars(model)),
        ]
        assert all(KEY not in text and KEY[:12] not in text for text in everything)
        assert caught.value.__cause__ is None and caught.value.__context__ is None


@both
def test_key_that_a_server_says_back_does_not_reach_the_trace(stream: bool, key_file: Path) -> None:
    given = {
        "content": f"your key is {KEY}",
        "reasoning": KEY,
        "tool_calls": calls(("a", "run", {"command": f"echo {KEY}"}), ("b", "run", KEY)),
    }
    thoughts: list[str] = []
    with FakeOpenAI(says(**given)) as server:
        model = OpenAIModel(
            settings(server, stream=stream, api_key_file=str(key_file)),
            on_reasoning=thoughts.append,
        )
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
    assert holder.clean(f"a {KEY} b") == "a [redacted] b"
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


# --- preflight and settings -----------------------------------------------------------------------


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
        server.faults.add(fault.hang(60))
        check(settings(server, timeout_s=0.15))  # busy, but it lists the model and needs no key


@pytest.mark.parametrize("value", [None, " "])
def test_preflight_finds_a_key_that_is_not_set_though_the_models_are_public(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with FakeOpenAI(says_hello, key=KEY, public_models=True) as server:
        with pytest.raises(EndpointError, match=r"no key was sent: put it in the env.*MY_KEY"):
            check(settings(server, api_key_env="MY_KEY"))
        with pytest.raises(EndpointError, match=r"no key was sent: put it in agent\.api_key"):
            check(settings(server))
    with FakeOpenAI(says_hello) as server:
        check(settings(server, api_key_env="MY_KEY"))  # named, not set, not needed


@pytest.mark.parametrize(
    ("server_given", "given", "kind", "expected"),
    [
        ({"key": "x"}, {}, Kind.AUTH, "check the key in the file"),
        ({"key": "x", "public_models": True}, {}, Kind.AUTH, "check the key"),
        ({"key": "x", "list_models": False}, {}, Kind.AUTH, "check the key"),
        (
            {"key": "x"},
            {"api_key_file": None},
            Kind.AUTH,
            "no key was sent: put it in agent.api_key",
        ),
        (
            {"models": ["llama-3-8b", "qwen"]},
            {"model": "llama-3-70b"},
            Kind.NOT_FOUND,
            "has no model llama-3-70b -- it has llama-3-8b, qwen",
        ),
        ({"list_models": False}, {"model": "other"}, Kind.NOT_FOUND, "`other` does not exist"),
        ({}, {"base_url": "/v2"}, Kind.NOT_FOUND, "most end in /v1"),
        ({}, {"base_url": ""}, Kind.NOT_FOUND, "most end in /v1"),
    ],
)
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


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (fault.html(path="/models", times=-1), Kind.MALFORMED),
        (fault.overloaded(), Kind.SERVER),
        (fault.dropped("before"), Kind.CONNECTION),
        (fault.quota(), Kind.QUOTA),
        (fault.hang(60, times=-1), Kind.TIMEOUT),
    ],
)
def test_preflight_of_a_sick_endpoint(given: fault.Fault, kind: Kind) -> None:
    chat = fault.Fault(**{**fault.plain(given), "path": "/chat/completions"})
    models = fault.Fault(**{**fault.plain(given), "path": "/models"})
    with FakeOpenAI(says_hello) as server:
        server.faults.add(models, chat)
        with pytest.raises(EndpointError) as caught:
            check(settings(server, timeout_s=0.15 if kind is Kind.TIMEOUT else 30))
        assert caught.value.kind is kind


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"base_url": "api.example.org/v1"}, "https://HOST/v1"),
        ({"base_url": "ftp://h/v1"}, "https://HOST/v1"),
        ({"base_url": "http://h:99999/v1"}, "https://HOST/v1"),
        ({"base_url": "https://user:pass@h/v1"}, "api_key_env or api_key_file"),
        ({"base_url": "https://h/v1/chat/completions"}, "leave out what follows /v1"),
        ({"extra_headers": {"Authorization": "Bearer x"}}, "looks like a secret"),
        ({"extra_headers": {"X-Api-Key": "x"}}, "looks like a secret"),
        ({"tools": "maybe"}, "tools"),
        ({"retries": -1}, "retries"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
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


# --- the server as a command ----------------------------------------------------------------------


def test_server_as_a_command_for_several_processes(tmp_path: Path) -> None:
    record, log = tmp_path / "agent-endpoint.json", tmp_path / "requests.jsonl"
    argv = [
        sys.executable,
        "-m",
        "tests.support.fake_openai",
        "--port",
        "0",
        "--brain",
        "tests.support.fake_openai:says_hello",
        "--record",
        str(log),
        "--endpoint",
        str(record),
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=REPO) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            model = OpenAIModel(EndpointSettings(record=str(record)), sleep=lambda _: None)
            data = json.dumps([fault.plain(fault.overloaded())]).encode()
            urllib.request.urlopen(f"{url.removesuffix('/v1')}/fake/faults", data).close()
            assert model.complete(OPENING, []).turn.content == "hello, 2 messages"
            with ThreadPoolExecutor(8) as pool:
                given = EndpointSettings(record=str(record))
                replies = pool.map(lambda _: OpenAIModel(given).complete(OPENING, []), range(24))
                assert {reply.turn.content for reply in replies} == {"hello, 2 messages"}
            entries = [json.loads(line) for line in log.read_text().splitlines()]
            assert len(entries) == 26 and entries[0]["body"]["messages"][0]["role"] == "system"
        finally:
            process.terminate()
