"""The client of OpenAI-compatible endpoints, against a real server: replies, text."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from aevo.config.agent import EndpointSettings
from aevo.llm.answers import (
    CUT,
    EMPTY,
    MALFORMED,
    MAX_REPAIRS,
    BadAnswer,
    Completion,
    RawCall,
    Unfinished,
    apart,
    complaint,
    from_body,
    from_chunks,
    parse,
    sound_calls,
)
from aevo.llm.client import OpenAIModel
from aevo.llm.retry import EndpointError, Kind
from aevo.llm.tokens import usage_of
from aevo.llm.wire import decode, describe, native_messages, text_messages
from aevo.records.trace import ToolCall, Turn
from aevo.work.arguments import Arguments
from tests.support.fake_openai import FakeOpenAI, says_hello
from tests.support.openai_support import (
    OPENING,
    READ,
    SYSTEM,
    TASK,
    TOOLS,
    Waits,
    both,
    calls,
    client,
    conversation,
    says,
    settings,
)


@pytest.fixture
def waits() -> Waits:
    return Waits()


# --- replies --------------------------------------------------------------------------------------


@both
def test_plain_answer_and_its_usage(stream: bool) -> None:
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 200,
        "prompt_tokens_details": {"cached_tokens": 400},
    }
    with FakeOpenAI(says(content="Grüße\nto all", usage=usage)) as server:
        model = client(
            server,
            stream=stream,
            price_in=3.0,
            price_out=15.0,
            price_cached=0.3,
            temperature=0.5,
            top_p=0.9,
            max_tokens=64,
            extra_body={"seed": 7},
            extra_headers={"X-Team": "aevo"},
        )
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
@pytest.mark.parametrize(
    "raw",
    [
        '{"path": "x',
        "[1]",
        "no json",
        '"text"',
        "{'path': 'x'}",
        '{"path": NaN}',
        "[" * 50_000,
        '{"path": "x"} {"path": "y"}',
    ],
)
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


def test_every_tool_refuses_the_mark_of_a_malformed_call() -> None:
    kinds = Arguments.__subclasses__()
    for kind in kinds + [below for above in kinds for below in above.__subclasses__()]:
        with pytest.raises(ValidationError, match=MALFORMED):
            kind.model_validate({MALFORMED: "{"})


@pytest.mark.parametrize(
    ("raw", "arguments"),
    [
        ("", {}),
        (None, {}),
        ('{"a": "two\nlines"}', {"a": "two\nlines"}),
        ('"{\\"a\\": 1}"', {"a": 1}),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ({"a": 1}, {"a": 1}),
    ],
)
def test_arguments_that_mean_something_are_understood(raw: Any, arguments: Any) -> None:
    assert parse(raw) == (arguments, "")


@pytest.mark.parametrize(
    ("raw", "arguments"),
    [
        ('{"a": [1, 2,], "b": "x",}', {"a": [1, 2], "b": "x"}),
        ('{"a": True, "b": [None, False]}', {"a": True, "b": [None, False]}),
        ('{"a": {"b": 1}}}', {"a": {"b": 1}}),
        ('{"content": "if (a, ) { \\"True\\",}\n", }', {"content": 'if (a, ) { "True",}\n'}),
        ('```json\n{"a": 1,}\n```', {"a": 1}),
    ],
)
def test_broken_arguments_are_repaired_where_their_meaning_is_sure(
    raw: str, arguments: Any
) -> None:
    assert parse(raw) == (arguments, "")
    block = f'```tool\n{{"name": "run", "arguments": {raw},}}\n```'
    if not raw.startswith("`") and not raw.endswith("}}}"):
        assert decode(block)[1][0].arguments == arguments


@pytest.mark.parametrize(
    "raw",
    [
        '{"content": "print("hi")"}',
        '{"content": "say "," loud"}',
        '{"content": "a" "b"}',
        '{"content": "a\\d",}',
        '{"content": "x"',
        '{"content": "a" "b": "c"}',
        '{content: "a"}',
        '{"n": 0123}',
        '{"content": "a"} and more',
        '{"content": "a", // said\n}',
        '{"a": [1]]}',
        '{"a":' * 5000 + "1",
        '{"a": NaN,}',
        ",}",
        '{"a": [,]}',
        "{,}",
        '{"a": "x",, "b": 1}',
    ],
)
def test_a_repair_never_guesses_at_what_is_written(raw: str) -> None:
    assert parse(raw)[0] is None and parse(raw)[1]


def test_half_a_surrogate_pair_does_not_reach_the_trace() -> None:
    call = sound_calls([RawCall("a", "run", '{"command": "\\ud83d"}')], [])[0]
    assert call.model_dump_json() and call.arguments == {"command": "?"}


@both
def test_thoughts_are_kept_apart_and_not_sent_back(stream: bool) -> None:
    thoughts: list[str] = []
    brains = iter(
        [
            {"content": "A", "reasoning": "first"},
            {"content": "<think>second</think>B"},
            {"content": "third</think>C"},
            {"content": "<think>fourth, unfinished", "finish_reason": "length"},
        ]
    )
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
@pytest.mark.parametrize(
    "given",
    [
        {"content": ""},
        {"tool_calls": calls(("a", "run", "{"))},
        {"tool_calls": calls(("a", "sudo", {}))},
    ],
    ids=["empty", "malformed", "unknown"],
)
def test_broken_replies_in_a_row_are_bounded(stream: bool, given: dict[str, Any]) -> None:
    with FakeOpenAI(says(**given, usage={"prompt_tokens": 5, "completion_tokens": 2})) as server:
        turns = [*OPENING]
        for _ in range(MAX_REPAIRS):
            # A new client each time: the bound holds across restarts.
            turn = client(server, stream=stream).complete(turns, TOOLS).turn
            assert turn.tool_calls or turn.content == EMPTY
            turns.append(turn)
            turns += [
                Turn(role="tool", tool_call_id=call.id, content="error") for call in turn.tool_calls
            ]
        with pytest.raises(EndpointError, match="4 times in a row") as caught:
            client(server, stream=stream).complete(turns, TOOLS)
        assert caught.value.kind is Kind.MALFORMED and caught.value.code == 7
        assert caught.value.usage.tokens_out == 2
        good = ToolCall(id="good", name="run", arguments={})
        turns += [
            Turn(role="assistant", content="", tool_calls=[good]),
            Turn(role="tool", tool_call_id="good", content="ok"),
        ]
        client(server, stream=stream).complete(turns, TOOLS)  # counted anew after a sound call


def test_streams_of_servers_that_number_calls_badly() -> None:
    def chunk(finish: str | None = None, *items: dict[str, Any]) -> dict[str, Any]:
        return {"choices": [{"delta": {"tool_calls": list(items)}, "finish_reason": finish}]}

    def piece(name: str, arguments: str, **more: Any) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": arguments}, **more}

    same_index = [
        chunk(None, piece("a", "{}", index=0, id="1")),
        chunk("tool_calls", piece("b", "{}", index=0, id="2")),
    ]
    no_ids = [chunk(None, piece("a", "{}", index=0)), chunk("stop", piece("b", "{}", index=0))]
    no_index = [
        chunk(None, piece("a", '{"x"', id="1")),
        chunk(None, piece("", ":1}", id="1")),
        chunk("stop", piece("b", "{}", id="2")),
    ]
    repeating = [
        chunk(None, piece("a", "{", index=0, id="1")),
        chunk(None, piece("a", "}", index=0, id="1")),
        chunk("stop", piece("b", "{}", index=1, id="2")),
    ]
    for chunks in (same_index, no_ids, no_index, repeating):
        found = from_chunks(chunks).calls
        assert [call.name for call in found] == ["a", "b"]
        assert all(parse(call.arguments)[0] is not None for call in found)
    with pytest.raises(Unfinished):
        from_chunks(no_index[:1])


@pytest.mark.parametrize(
    "body",
    [None, [], "text", {}, {"choices": []}, {"choices": [None]}, {"choices": [{"message": "hi"}]}],
)
def test_answers_that_are_none(body: Any) -> None:
    with pytest.raises(BadAnswer):
        from_body(body)


def test_usage_is_told_or_estimated() -> None:
    free = EndpointSettings()
    assert usage_of(None, free, 400, 80).model_dump() == {
        "tokens_in": 100,
        "tokens_out": 20,
        "dollars": None,
    }  # unknown, not free
    assert usage_of(None, EndpointSettings(price_in=0), 400, 80).dollars == 0
    assert (
        usage_of({"prompt_tokens": 7, "completion_tokens": 3, "cost": 0.25}, free, 0, 0).dollars
        == 0.25
    )
    priced = EndpointSettings(price_in=1.0, price_out=2.0)
    told = {"prompt_tokens": 10, "completion_tokens": 10, "prompt_cache_hit_tokens": 99}
    assert usage_of(told, priced, 0, 0).dollars == pytest.approx(30 / 1e6)


@both
def test_usage_where_the_endpoint_tells_none(stream: bool) -> None:
    with FakeOpenAI(says(content="x" * 400, usage=None)) as server:
        usage = client(server, stream=stream).complete(OPENING, TOOLS).usage
        assert usage.tokens_out == 100 and usage.tokens_in > 50


# --- text protocol --------------------------------------------------------------------------------


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
        turns = [
            *OPENING,
            turn,
            Turn(role="tool", tool_call_id=turn.tool_calls[0].id, content="its text"),
        ]
        model.complete(turns, TOOLS)
        assert len(server.chats()) == 3  # native calls were not tried again
        sent = server.chats()[-1]
        assert "tools" not in sent
        assert [message["role"] for message in sent["messages"]] == [
            "system",
            "user",
            "assistant",
            "user",
        ]
        assert sent["messages"][0]["content"].startswith(SYSTEM.content)
        assert "Run <it> & see." in sent["messages"][0]["content"]
        assert json.dumps(READ.parameters) in sent["messages"][0]["content"]
        assert sent["messages"][3]["content"] == "Result of read_file:\nits text"
        assert decode(sent["messages"][2]["content"])[1][0].arguments == {"path": "a"}


def test_native_only_says_what_to_set(waits: Waits) -> None:
    with (
        FakeOpenAI(says_hello, native_tools=False) as server,
        pytest.raises(EndpointError, match=r"does not support tools -- agent\.tools=text"),
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


@pytest.mark.parametrize(
    ("text", "names", "malformed"),
    [
        ('<tool_call>\n{"name": "run", "arguments": {}}\n</tool_call>', ["run"], False),
        ('```tool_call\n{"name": "run", "parameters": {"command": "x"}}\n```', ["run"], False),
        (
            'a\n```tool\n{"name": "run"}\n```\nb\n```tool\n{"name": "read_file"}\n```',
            ["run", "read_file"],
            False,
        ),
        ('```tool\n{"name": "run", "arguments": {"command": "a\nb"}}\n```', ["run"], False),
        ('```tool\n{"name": "run", "arguments": {"command": "echo ```x```"}}\n```', ["run"], False),
        ('```tool\n{"name": "run", "arguments": {"command": "ec', ["run"], True),
        ("```tool\nrun ls\n```", ["unnamed"], True),
        ("```tool\n```", ["unnamed"], True),
        ('<tool_call>["run"]</tool_call>', ["unnamed"], True),
        ("no call, ```python\nprint()\n```", [], False),
    ],
)
def test_blocks_of_the_text_protocol(text: str, names: list[str], malformed: bool) -> None:
    found = sound_calls(decode(text)[1], [])
    assert [call.name for call in found] == names
    assert any(MALFORMED in call.arguments for call in found) is malformed


def test_text_messages_alternate_and_show_a_malformed_call_as_it_was() -> None:
    bad = ToolCall(id="b", name="run", arguments={MALFORMED: "{oops"})
    turns = [
        *conversation("one"),
        Turn(role="assistant", content="", tool_calls=[bad]),
        Turn(role="tool", tool_call_id="b", content="error"),
        Turn(role="user", content="go on"),
    ]
    messages = text_messages(turns, TOOLS)
    assert [message["role"] for message in messages[1:]] == ["user", "assistant"] * 2 + ["user"]
    assert "{oops" in messages[4]["content"] and messages[5]["content"].endswith("go on")
    assert text_messages([TASK], TOOLS)[0]["role"] == "system"
    assert describe([]) == "" and native_messages([TASK]) == [
        {"role": "user", "content": TASK.content}
    ]
