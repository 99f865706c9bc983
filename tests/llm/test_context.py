"""Keeping a conversation within the context: what is left out, what never is."""

import json

import pytest

from aevo.llm.retry import EndpointError, Kind
from aevo.llm.tokens import Window
from aevo.records.trace import ToolCall, Turn
from tests.support import fake_faults as fault
from tests.support.fake_openai import FakeOpenAI, says_hello
from tests.support.openai_support import OPENING, TOOLS, Waits, both, client, conversation, says


@pytest.fixture
def waits() -> Waits:
    return Waits()


def test_old_outputs_are_left_out_oldest_first_never_what_must_stay() -> None:
    turns = conversation(*[f"{number}" * 4000 for number in range(8)])
    window = Window(6000)
    sent = window.fit(turns)
    assert window.estimate(turns) > 6000 >= window.estimate(sent)
    assert sent[:2] == OPENING and sent[-6:] == turns[-6:] and len(sent) == len(turns)
    markers = [
        turn.content.startswith("[output of read_file") for turn in sent if turn.role == "tool"
    ]
    assert markers == sorted(markers, reverse=True) and 0 < sum(markers) < 8
    assert "4000 characters" in sent[3].content
    more = [*turns, *conversation("9" * 300)[2:]]
    assert window.fit(more)[: len(sent) - 6] == sent[:-6]  # stays as it was: prompt caches


def test_last_turns_stay_even_if_they_are_too_much() -> None:
    turns = conversation(*["x" * 4000 for _ in range(8)])
    window = Window(1000)
    sent = window.fit(turns)
    assert window.estimate(sent) > 1000 and sent[-6:] == turns[-6:] and sent[:2] == OPENING
    assert all(len(turn.content) < 100 for turn in sent[2:-6])


def test_short_conversation_is_sent_as_it_is() -> None:
    turns = conversation("short", "x" * 4000)
    assert Window(6000).fit(turns) == turns


def test_long_arguments_of_old_calls_go_when_outputs_do_not_suffice() -> None:
    turns = [*OPENING]
    for number in range(8):
        call = ToolCall(
            id=f"w{number}", name="write_file", arguments={"path": "a.py", "content": "x" * 4000}
        )
        turns += [
            Turn(role="assistant", content="", tool_calls=[call]),
            Turn(role="tool", tool_call_id=call.id, content="written"),
        ]
    window = Window(6000)
    sent = window.fit(turns)
    assert window.estimate(sent) <= 6000 and sent[-6:] == turns[-6:]
    assert sent[2].tool_calls[0].arguments == {
        "path": "a.py",
        "content": "[left out to save room: 4000 characters]",
    }


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


@pytest.mark.parametrize("context", [32_000, 128_000, 400_000])
def test_a_conversation_of_150_turns_stays_right(context: int) -> None:
    """Within the context at every turn; calls and answers stay in pairs; what is left out stays so;
    trimming comes seldom."""
    window, turns, trims, before = Window(context, 4000), [*OPENING], 0, list[Turn]()
    for number in range(150):
        call = ToolCall(
            id=f"c{number}",
            name="write_file" if number % 3 == 0 else "read_file",
            arguments={"path": f"{number}.py", "content": "y" * (6000 if number % 3 == 0 else 10)},
        )
        answer = f"{number} " * (1 + 997 * number % 3000)
        turns += [
            Turn(role="assistant", content=f"turn {number}", tool_calls=[call]),
            Turn(role="tool", tool_call_id=call.id, content=answer),
        ]
        sent = window.fit(turns)
        assert window.estimate(sent) <= window.limit == context - 4000
        assert sent[:2] == OPENING and sent[-6:] == turns[-6:] and len(sent) == len(turns)
        assert [turn.tool_call_id for turn in sent] == [turn.tool_call_id for turn in turns]
        assert [turn.content for turn in sent if turn.role == "assistant"] == [
            turn.content for turn in turns if turn.role == "assistant"
        ]
        trims += sent[: max(0, len(before) - 6)] != before[: max(0, len(before) - 6)]
        before = sent
    whole = window.estimate(turns)
    assert (trims == 0) == (whole <= window.limit)
    assert trims <= 1 + whole / (0.2 * window.limit), "a prompt cache lives for many turns"
