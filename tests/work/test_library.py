"""What workers may ask: a folder, a teacher, a budget, and never an evaluation item."""

import json
from pathlib import Path

import pytest

from aevo.config.agent import EndpointSettings
from aevo.records.trace import ToolCall, Trace, Turn
from aevo.work.library import Library, LibraryError
from aevo.work.teacher import Desk
from tests.support.fake_openai import FakeOpenAI

ITEM = "A register holds 10110 and every third bit is then flipped twice by the left gate of seven"


@pytest.fixture
def library(tmp_path: Path) -> Library:
    items = tmp_path / "dev.jsonl"
    items.write_text(
        "".join(json.dumps({"id": f"i{n}", "prompt": f"{ITEM} {n}"}) + "\n" for n in range(9))
    )
    folder = tmp_path / "papers"
    (folder / "sub").mkdir(parents=True)
    (folder / "schedules.md").write_text(
        "# Warmup\n\nA stable warmup-decay schedule cools at the end.\n"
    )
    (folder / "sub" / "loss.txt").write_text("Focal loss weighs hard examples.\n" * 3)
    (folder / "leak.md").write_text(f"The schedule of an item: {ITEM} 4, which is easy.\n")
    (folder / "image.png").write_bytes(b"\x89PNG schedule")
    (folder / "link.md").symlink_to(items)
    return Library(folder, [items])


def test_passages_are_found_by_full_text_with_their_place(library: Library) -> None:
    (best,) = library.search("how should a schedule decay?")
    assert (best.file, best.line) == ("schedules.md", 1) and "cools" in best.text
    assert [item.file for item in library.search('focal "loss" OR NEAR(')] == ["sub/loss.txt"]
    assert library.search("!!!") == [] and library.search("zebra") == []


def test_nothing_that_holds_an_item_leaves_the_library(library: Library) -> None:
    assert not any(
        "register" in item.text for item in library.search("register gate item schedule")
    )
    with pytest.raises(LibraryError, match="withheld"):
        library.read("leak.md", 1, 10)
    for name in ("../dev.jsonl", "link.md", "image.png", "/etc/passwd"):
        with pytest.raises(LibraryError, match="there is no"):
            library.read(name, 1, 10)
    assert library.read("sub/loss.txt", 2, 1) == (
        "Focal loss weighs hard examples.\n[sub/loss.txt has 3 lines]"
    )


def answered(trace: Trace, name: str, content: str) -> None:
    request = ToolCall(id=f"t{len(trace.turns())}", name=name, arguments={})
    trace.message(Turn(role="assistant", content="", tool_calls=[request]))
    trace.message(Turn(role="tool", tool_call_id=request.id, content=content))


def test_questions_have_a_budget_that_a_restart_does_not_refill(
    library: Library, tmp_path: Path
) -> None:
    trace = Trace(tmp_path / "trace.jsonl")
    desk = Desk(library, None, trace, 2)
    answered(trace, "ask", desk.ask("schedule"))
    answered(trace, "ask", "error: nothing in the library fits that")
    answered(trace, "read", desk.read("schedules.md", 1, 5))
    again = Desk(library, None, Trace(tmp_path / "trace.jsonl"), 2)
    assert again.asked == 2
    with pytest.raises(LibraryError, match="budget of 2 questions is spent"):
        again.ask("schedule")


@pytest.mark.parametrize("leak", [False, True])
def test_a_teacher_answers_its_costs_are_in_the_trace_and_items_are_withheld(
    library: Library, tmp_path: Path, leak: bool
) -> None:
    trace = Trace(tmp_path / "trace.jsonl")
    said = f"As in: {ITEM} 3." if leak else "Cool for the last fifth."
    usage = {"prompt_tokens": 40, "completion_tokens": 10}
    with FakeOpenAI(lambda request: {"content": said, "usage": usage}) as server:
        settings = EndpointSettings(
            base_url=server.url, model=server.model, api_key_env=None, price_in=1, price_out=1
        )
        desk = Desk(library, settings, trace, 5)
        if leak:
            with pytest.raises(LibraryError, match="withheld"):
                desk.ask("how to decay a schedule?")
        else:
            answer = desk.ask("how to decay a schedule?")
            assert answer.startswith("teacher: Cool for the last fifth.\n\nschedules.md:1")
        (request,) = server.chats()
    assert "cools at the end" in request["messages"][1]["content"]
    used = trace.usage()
    assert (used.tokens_in, used.tokens_out) == (40, 10) and used.dollars == pytest.approx(5e-5)
    assert trace.turns() == []


def test_a_teacher_that_is_away_is_an_answer(library: Library, tmp_path: Path) -> None:
    settings = EndpointSettings(
        base_url="http://127.0.0.1:9/v1", model="m", api_key_env=None, retries=0, max_wait_s=0
    )
    desk = Desk(library, settings, Trace(tmp_path / "trace.jsonl"), 5)
    with pytest.raises(LibraryError, match="the teacher does not answer"):
        desk.ask("how to decay?")
