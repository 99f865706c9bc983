"""The tool loop: ask the model, run its tool calls, append everything to the trace, until it
finishes or its budget is spent.

The trace is the only state. A loop started again on an old trace rebuilds the conversation, runs
the tool calls that have no result yet, and goes on; tools are written so that a call that was cut
short may run again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from aevo.agent.model import Model
from aevo.agent.tools import Toolbox
from aevo.records.plan import Budget
from aevo.records.trace import ToolCall, Turn, Usage
from aevo.trace import Trace

NUDGE = "Call a tool to go on, or `finish` to end."


@dataclass(frozen=True)
class Outcome:
    """How the loop ended: `finished`, or which budget ran out."""

    reason: Literal["finished", "turns", "wall time"]


def run_loop(
    model: Model, toolbox: Toolbox, trace: Trace, opening: list[Turn], budget: Budget,
    waited: Callable[[], float] = lambda: 0.0,
) -> Outcome:
    """Runs or continues the conversation recorded in `trace`.

    Args:
        opening: system and user turns of a new conversation; ignored if the trace has one.
        waited: seconds so far in which the candidate only waited for the scheduler; they are no
            part of its wall budget.
    """
    if not trace.turns():
        for turn in opening:
            trace.message(turn)
    while True:
        turns = trace.turns()
        pending = unanswered(turns)
        if pending:
            for call in pending:
                trace.message(answer(toolbox, call))
            continue
        if toolbox.recall_finish(turns):
            return Outcome("finished")
        if sum(turn.role == "assistant" for turn in turns) >= budget.turns:
            return Outcome("turns")
        if time.time() - trace.started() - waited() > budget.wall_s:
            return Outcome("wall time")
        reply = model.complete(turns, toolbox.schemas())
        trace.message(reply.turn, reply.usage)
        if not reply.turn.tool_calls:
            trace.message(Turn(role="user", content=NUDGE), Usage())


def unanswered(turns: list[Turn]) -> list[ToolCall]:
    """Tool calls of the last assistant turn that have no result yet."""
    answered = {turn.tool_call_id for turn in turns if turn.role == "tool"}
    for turn in reversed(turns):
        if turn.role == "assistant":
            return [call for call in turn.tool_calls if call.id not in answered]
    return []


def answer(toolbox: Toolbox, call: ToolCall) -> Turn:
    """Runs one tool call and returns its result as a turn."""
    return Turn(role="tool", tool_call_id=call.id, content=toolbox.call(call))
