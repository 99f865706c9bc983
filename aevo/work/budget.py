"""What a candidate has spent of its budget, from its trace and its jobs' records."""

import time
from collections.abc import Callable

from aevo.records.plan import Budget
from aevo.records.trace import Trace, Turn

LEAST_S = 0.01  # processor seconds of a command that are counted
NOT_RUN = "error: not run:"  # how the answer to a call that was put off begins


class Meter:
    """Reads budgets against the records; holds no count of its own, so a restart changes nothing.

    Args:
        waited: seconds in which the candidate only waited for the scheduler; no part of its wall
            budget.
        gpu_hours: GPU-hours of its jobs so far.
    """

    def __init__(
        self,
        budget: Budget,
        trace: Trace,
        waited: Callable[[], float] = lambda: 0.0,
        gpu_hours: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.budget, self.trace = budget, trace
        self.waited, self.gpu_hours = waited, gpu_hours

    def taken(self, turns: list[Turn]) -> int:
        """Turns that count."""
        return sum(turn.role == "assistant" for turn in turns)

    def spent(self) -> str:
        """The first budget that is spent, in words; empty while there is none."""
        budget, turns, used = self.budget, self.trace.turns(), self.trace.usage()
        if self.taken(turns) >= budget.turns:
            return "turns"
        if time.time() - self.trace.started() - self.waited() > budget.wall_s:
            return "wall time"
        if budget.tokens is not None and used.tokens_in + used.tokens_out >= budget.tokens:
            return "tokens"
        if budget.dollars is not None and self.trace.known_dollars() >= budget.dollars:
            return "dollars"
        if budget.gpu_hours is not None and self.gpu_hours() >= budget.gpu_hours:
            return "GPU-hours"
        if failures_in_a_row(turns) >= budget.failures:
            return "patience with failing calls"
        return ""


def shell_seconds(trace: Trace) -> float:
    """Processor seconds that its shell has taken, those before a restart included."""
    return sum(float(event.data.get("shell_s", 0.0)) for event in trace.events)


def spend_shell(trace: Trace, processor_s: float) -> None:
    """Counts what a command of the agent's took, a check of its fork included."""
    if processor_s >= LEAST_S:
        trace.note("note", shell_s=round(processor_s, 2), at=round(time.time(), 3))


def failures_in_a_row(turns: list[Turn]) -> int:
    """Tool calls that failed since the last one that did not."""
    count = 0
    for turn in reversed(turns):
        if turn.role != "tool" or turn.content.startswith(NOT_RUN):
            continue
        if not turn.content.startswith("error:"):
            break
        count += 1
    return count
