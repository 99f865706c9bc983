"""The tools as an agent of others calls them: each call on record once, long ones in pieces.

Agents give up on a call that takes minutes, so no call is answered later than `wait_s`: it goes on,
the answer says so, and the same call again gets the same run of it, and in the end its result. In
the trace it is one call with one answer, however often it was asked: polling is no turn and no
loop. A call that was under way when the worker was killed goes on when the worker does.

Two calls never run at the same time, but for those that only look on, and no two that touch the
fork. While a file of the fork is read or written for a call, the agent's own processes are held
still (`still`).
"""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import nullcontext
from typing import Any

from aevo.llm.model import ToolSchema
from aevo.records.trace import ToolCall, Trace, Turn, Usage
from aevo.work.budget import Meter
from aevo.work.cli.still import RestlessError, Stillness
from aevo.work.tools import FINISHED, Toolbox

OURS = "mcp-"  # how the numbers of its calls begin; those in a transcript begin otherwise
BESIDE = ("wait", "logs", "list_files", "read_file", "search")  # may run beside another call
FILES = ("list_files", "read_file", "search", "write_file", "edit_file", "apply_move")
FORK = (*FILES, "run", "check", "train")  # never two of these at a time
MOST_CALLS = 5000  # of one candidate
STILL = "still running after {seconds:.0f} s; call `{name}` again with the same arguments"


class AgentMeter(Meter):
    """Budgets of an agent of others: a turn is a call of the model that was not spent on asking
    again for the result of a tool."""

    def taken(self, turns: list[Turn]) -> int:
        """Calls of the model, without those that a poll came of, each at most once: many polls at a
        time buy no turns. Turns where its proxy has counted none."""
        free, asked = 0, False
        for event in self.trace.events:
            if "model_call" in event.data and event.usage is not None:
                asked = True
            elif "poll" in event.data and asked:
                free, asked = free + 1, False
        return max(0, self.trace.model_calls() - free)


class Desk:
    """Takes the calls of one candidate's agent.

    Args:
        wait_s: after so many seconds a call is answered, done or not.
        still: holds the agent's processes still.
    """

    def __init__(
        self,
        toolbox: Toolbox,
        trace: Trace,
        meter: Meter,
        wait_s: float,
        still: Stillness | None = None,
    ) -> None:
        self.still = still or Stillness()
        self.toolbox, self.trace, self.meter, self.wait_s = toolbox, trace, meter, wait_s
        self.finished = threading.Event()
        self.connected = threading.Event()
        self.active, self.touched = 0, time.monotonic()
        self._state, self._work, self._fork = (threading.Lock() for _ in range(3))
        self._running: dict[str, Future[str]] = {}
        self._threads = ThreadPoolExecutor(thread_name_prefix="call")
        for call in unanswered(trace.turns()):
            self._running[key(call.name, call.arguments)] = self._start(call)
        if toolbox.recall_finish(trace.turns()):
            self.finished.set()

    def schemas(self) -> list[ToolSchema]:
        """All tools."""
        return self.toolbox.schemas()

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        """The result of a call, or that it is still running; never raises for what was asked."""
        with self._state:
            self.touched, self.active = time.monotonic(), self.active + 1
        try:
            return self._call(name, arguments)
        finally:
            with self._state:
                self.touched, self.active = time.monotonic(), self.active - 1

    def _call(self, name: str, arguments: dict[str, Any]) -> str:
        if self.finished.is_set():
            return "error: you have finished; end now"
        reason = self.meter.spent()
        if reason and name != "finish":
            return f"error: your budget is spent ({reason}); call `finish` now, nothing else runs"
        asked = key(name, arguments)
        with self._state:
            running = self._running.get(asked)
            again = running is not None
            if running is None:
                number = 1 + sum(turn.role == "tool" for turn in self.trace.turns())
                calls = sum(
                    call.id.startswith(OURS)
                    for turn in self.trace.turns()
                    for call in turn.tool_calls
                )
                if calls >= MOST_CALLS:
                    return f"error: more than {MOST_CALLS} calls"
                call = ToolCall(id=f"{OURS}{calls + 1}-{number}", name=name, arguments=arguments)
                self.trace.message(Turn(role="assistant", content="", tool_calls=[call]))
                running = self._running[asked] = self._start(call)
        done, _ = wait_for([running], self.wait_s)
        if again:
            self.trace.spend(None, poll=name)
        if not done:
            return STILL.format(seconds=self.wait_s, name=name)
        with self._state:
            self._running.pop(asked, None)
        return running.result()

    def _start(self, call: ToolCall) -> "Future[str]":
        return self._threads.submit(self._run, call)

    def _run(self, call: ToolCall) -> str:
        with (
            nullcontext() if call.name in BESIDE else self._work,
            self._fork if call.name in FORK else nullcontext(),
        ):
            text = self._answer(call)
        self.trace.message(Turn(role="tool", tool_call_id=call.id, content=text), Usage())
        if text == FINISHED and self.toolbox.recall_finish(self.trace.turns()):
            self.finished.set()
        return text

    def _answer(self, call: ToolCall) -> str:
        if call.name not in FILES:
            return self.toolbox.call(call)
        try:
            with self.still():
                return self.toolbox.call(call)
        except RestlessError as error:
            return f"error: {error}"

    def settle(self, patient: Callable[[], bool]) -> None:
        """Waits for the calls under way while `patient` says so: what was asked for is answered on
        record before the worker ends."""
        while any(not future.done() for future in list(self._running.values())) and patient():
            wait_for(list(self._running.values()), 0.5)

    def problem(self) -> str:
        """What broke one of our own calls, which is a defect; empty while none did."""
        for future in list(self._running.values()):
            error = future.exception() if future.done() else None
            if error is not None:
                return f"{type(error).__name__}: {error}"
        return ""


def key(name: str, arguments: dict[str, Any]) -> str:
    """What makes two calls the same."""
    return json.dumps([name, arguments], sort_keys=True)


def unanswered(turns: list[Turn]) -> list[ToolCall]:
    """Calls over the tools' socket that have no answer on record."""
    answered = {turn.tool_call_id for turn in turns if turn.role == "tool"}
    return [
        call
        for turn in turns
        for call in turn.tool_calls
        if call.id.startswith(OURS) and call.id not in answered
    ]
