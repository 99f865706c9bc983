"""What each agent says, as turns of the trace.

`transcripts/` was recorded from real ones at the fake endpoint (Claude Code 2.1.197, Codex 0.171.0,
Gemini CLI 0.61.0, opencode 1.18.33, mini-swe-agent 2.4.6), each doing the same five things. The
stream of OpenHands stands here as its documentation and source describe its events: it was not run.
"""

import json
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aevo.config.agent import Transcript
from aevo.records.trace import Turn
from aevo.work.cli.streams import parser_for
from tests.attacks.tables import CASES

FOLDER = Path(__file__).parent / "transcripts"
KINDS: tuple[Transcript, ...] = get_args(Transcript)
SHELLS = {
    "claude_code": "own:Bash",
    "codex": "own:shell",
    "gemini_cli": "own:run_shell_command",
    "opencode": "own:bash",
    "mini_swe": "own:bash",
}
OPENHANDS = """\
Initializing agent...
--JSON Event--
{
  "id": "1", "kind": "SystemPromptEvent", "source": "agent",
  "system_prompt": {"type": "text", "text": "You are OpenHands"}
}
--JSON Event--
{"kind": "ActionEvent", "source": "agent", "thought": [{"type": "text", "text": "Step 0."}],
"action": {"command": "ls", "kind": "TerminalAction"}, "tool_name": "terminal",
"tool_call_id": "call-0"
}
{"kind": "ObservationEvent", "source": "environment", "tool_name": "terminal", \
"tool_call_id": "call-0", "observation": {"content": [{"type": "text", "text": "recipe.yaml"}], \
"kind": "TerminalObservation"}}
{"kind": "ActionEvent", "source": "agent", "thought": [{"type": "text", "text": "Step 1."}], \
"action": {"data": {}, "kind": "MCPToolAction"}, "tool_name": "train", "tool_call_id": "call-1"}
{"kind": "ObservationEvent", "source": "environment", "tool_name": "train", \
"tool_call_id": "call-1", "observation": {"content": [{"type": "text", "text": "{}"}]}}
{"kind": "MessageEvent", "source": "agent", \
"llm_message": {"role": "assistant", "content": [{"type": "text", "text": "Done."}]}}
"""


def turns_of(kind: Transcript, text: bytes, session: int = 1) -> list[Turn]:
    parser = parser_for(kind, session)
    found = [turn for line in text.splitlines(keepends=True) for turn in parser.feed(line)]
    return found + parser.end()


@pytest.mark.parametrize("kind", SHELLS)
def test_a_recorded_session_is_read(kind: Transcript) -> None:
    turns = turns_of(kind, (FOLDER / f"{kind}.jsonl").read_bytes())
    said = "\n".join(turn.content for turn in turns if turn.role == "assistant")
    assert all(f"Step {step}." in said for step in range(5))
    calls = [call for turn in turns for call in turn.tool_calls]
    own = [call for call in calls if "recipe.yaml" in str(call.arguments)]
    assert [call.name for call in own] == [SHELLS[kind]]
    if kind != "mini_swe":  # it calls the worker's tools by its shell
        assert calls == own, "calls of the worker's tools are on record from their own socket"
    answered = {turn.tool_call_id for turn in turns if turn.role == "tool"}
    assert answered == {call.id for call in calls}


def test_the_events_of_openhands_are_read() -> None:
    turns = turns_of("openhands", OPENHANDS.encode())
    shown = [
        (turn.role, turn.content, [(call.name, call.arguments) for call in turn.tool_calls])
        for turn in turns
    ]
    assert shown == [
        ("assistant", "Step 0.", [("own:terminal", {"command": "ls"})]),
        ("tool", "recipe.yaml", []),
        ("assistant", "Step 1.", []),
        ("assistant", "Done.", []),
    ]


def test_any_output_is_kept_as_text() -> None:
    turns = turns_of("text", b'one\n{"two": 2}\nthree')
    assert [turn.content for turn in turns] == ['one\n{"two": 2}\nthree']


def test_calls_of_two_sessions_are_told_apart() -> None:
    text = (FOLDER / "opencode.jsonl").read_bytes()
    ids = [
        {call.id for turn in turns_of("opencode", text, session) for call in turn.tool_calls}
        for session in (1, 2)
    ]
    assert ids[0] and ids[1] and not ids[0] & ids[1]


FIELDS = (
    "type part state input output item message content role tool_calls function id name tool "
    "tool_name tool_id parameters messages kind action thought error text tool_use_id callID "
    "arguments result is_error"
)
VALUES = (
    "assistant user tool tool_use tool_result text item.completed mcp_tool_call message "
    "command_execution ActionEvent ObservationEvent result error turn.failed"
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(FIELDS.split()), inner | st.sampled_from(VALUES.split()), max_size=5
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("kind", KINDS)
@CASES
@given(values=st.lists(JSON, max_size=4), raw=st.binary(max_size=30))
def test_no_output_breaks_its_reader(kind: Transcript, values: list[object], raw: bytes) -> None:
    """And none makes a call that could be taken for one of the worker's tools."""
    text = b"\n".join([*(json.dumps(value).encode() for value in values), raw])
    for turn in turns_of(kind, text):
        assert turn.role in ("assistant", "tool")
        for call in turn.tool_calls:
            assert call.name.startswith("own:") and call.id.startswith("own-1-")
        assert turn.tool_call_id is None or turn.tool_call_id.startswith("own-1-")
