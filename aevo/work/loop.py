"""The tool loop: ask the model, run its tool calls, append everything to the trace, until it
finishes or its budget is spent.

The trace is the only state. A loop started again on an old trace rebuilds the conversation, runs
the tool calls that have no result yet, and goes on; tools are written so that a call that was cut
short may run again.

When a budget is spent the model gets one more turn to finish in its own words; then the loop ends
and the manifest is written from the records.
"""

from dataclasses import dataclass

from aevo.llm.model import Model
from aevo.llm.retry import EndpointError
from aevo.records.trace import ToolCall, Trace, Turn, Usage
from aevo.work.budget import NOT_RUN, Meter
from aevo.work.tools import EDITS, Toolbox

NUDGE = "Call a tool to go on, or `finish` to end."
LAST_WORD = "Your budget is spent ({reason}). Call `finish` now; no other tool will run."


@dataclass(frozen=True)
class Outcome:
    """How the loop ended: `finished`, or what ran out."""

    reason: str


def run_loop(
    model: Model, toolbox: Toolbox, trace: Trace, opening: list[Turn], meter: Meter
) -> Outcome:
    """Runs or continues the conversation recorded in `trace`.

    Args:
        opening: system and user turn; only what the trace lacks of them is added.
    """
    for turn in opening[len(trace.turns()) :]:
        trace.message(turn)
    while True:
        turns = trace.turns()
        spent = meter.spent()
        pending = unanswered(turns)
        if pending:
            for call in pending:
                refused = spent and is_last_word(turns) and call.name != "finish"
                trace.message(
                    refusal(call)
                    if refused
                    else put_off(call, trace.turns()) or answer(toolbox, call)
                )
            continue
        if toolbox.recall_finish(turns):
            return Outcome("finished")
        if spent and is_last_word(turns):
            return Outcome(spent)
        if spent:
            trace.message(Turn(role="user", content=LAST_WORD.format(reason=spent)))
        try:
            reply = model.complete(trace.turns(), toolbox.schemas())
        except EndpointError as error:
            trace.spend(error.usage, endpoint=str(error), failure=str(error.kind))
            return Outcome(f"working endpoint: {error.what}")
        trace.message(reply.turn, reply.usage)
        if not reply.turn.tool_calls:
            trace.message(Turn(role="user", content=NUDGE), Usage())


def is_last_word(turns: list[Turn]) -> bool:
    """True once the model was told that its budget is spent."""
    mark = LAST_WORD.split("(")[0]
    return any(turn.role == "user" and turn.content.startswith(mark) for turn in turns)


def unanswered(turns: list[Turn]) -> list[ToolCall]:
    """Tool calls of the last assistant turn that have no result yet."""
    answered = {turn.tool_call_id for turn in turns if turn.role == "tool"}
    for turn in reversed(turns):
        if turn.role == "assistant":
            return [call for call in turn.tool_calls if call.id not in answered]
    return []


def put_off(call: ToolCall, turns: list[Turn]) -> Turn | None:
    """The answer to a call that stands behind a failed edit in one turn: it was asked for in the
    belief that the edit would be there, so it does not run. None if there is no such edit."""
    batch = next((turn for turn in reversed(turns) if turn.role == "assistant"), None)
    edits = {item.id: item.name for item in batch.tool_calls if item.name in EDITS} if batch else {}
    failed = [
        edits[turn.tool_call_id or ""]
        for turn in turns
        if turn.tool_call_id in edits and turn.content.startswith("error:")
    ]
    if not failed:
        return None
    return Turn(
        role="tool",
        tool_call_id=call.id,
        content=f"{NOT_RUN} `{failed[0]}` before it in this turn failed",
    )


def answer(toolbox: Toolbox, call: ToolCall) -> Turn:
    """Runs one tool call and returns its result as a turn."""
    return Turn(role="tool", tool_call_id=call.id, content=toolbox.call(call))


def refusal(call: ToolCall) -> Turn:
    """The answer to a call that comes after the budget is spent."""
    return Turn(role="tool", tool_call_id=call.id, content="error: the budget is spent; finish")
