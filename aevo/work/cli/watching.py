"""Watches one session of an agent: reads what it says, and ends what must end."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aevo.config.agent import CliAgent
from aevo.errors import AevoError
from aevo.files.untrusted import IntegrityError, open_folder, read_bytes
from aevo.records.trace import Trace, Turn
from aevo.work.cli.desk import Desk
from aevo.work.cli.proxy import ModelProxy
from aevo.work.cli.streams import parser_for
from aevo.work.cli.streams.said import LINE

POLL_S = 0.1
LOOK_S = 1.0  # between two looks at a transcript in a file, and at the budgets
LEAVE_S = 15.0  # for an agent to leave by itself after `finish`
LAST_S = 90.0  # for an agent to call `finish` after a budget is spent


class SessionError(AevoError):
    """The agent cannot work here, whatever it is asked; the text is the reason."""


@dataclass(frozen=True)
class Ended:
    """How one session ended: by itself with an exit code, or stopped for `why`."""

    code: int | None
    why: str


class Watched(Protocol):
    """What is watched."""

    settings: CliAgent
    desk: Desk
    trace: Trace
    home: Path


class Watch:
    """Watches one session: reads what it says, and ends what must end."""

    def __init__(
        self, agent: Watched, proxy: ModelProxy, process: Any, output: Path, number: int
    ) -> None:
        self.agent, self.proxy, self.process, self.output = agent, proxy, process, output
        self.settings, self.desk, self.trace = agent.settings, agent.desk, agent.trace
        self.parser = parser_for(self.settings.transcript, number)
        self.began = self.heard = time.monotonic()
        self.looked, self.counted, self.text = 0.0, 0.0, b""
        self.spent_at: float | None = None
        self.finished_at: float | None = None

    def until_the_end(self) -> Ended:
        """How the session ended.

        Raises:
            SessionError: it cannot work here.
        """
        with self.output.open("rb") as said:
            lines = _Lines(said)
            why = None
            while self.process.poll() is None and why is None:
                self._read(lines)
                why = self._must_end()
                time.sleep(POLL_S)
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            code = self.process.wait()
            self._read(lines, last=True)
        self._keep(self.parser.end())
        self.desk.settle(lambda: not self.desk.meter.spent() and not self.desk.problem())
        return Ended(code, why or "")

    def _must_end(self) -> str | None:
        """Why the session must end now; None while it may go on.

        Raises:
            SessionError: it has no tools.
        """
        now = time.monotonic()
        problem = self.desk.problem()
        if problem:
            raise SessionError(f"working tools: {problem}")
        by_mcp = self.settings.tools_by == "mcp"
        if by_mcp and not self.desk.connected.is_set() and now - self.began > self.settings.start_s:
            raise SessionError(
                f"working tools: the agent did not connect to the MCP server `aevo` within "
                f"{self.settings.start_s:g} s"
            )
        if self.desk.finished.is_set():
            self.finished_at = self.finished_at or now
            return "finished" if now - self.finished_at > LEAVE_S else None
        if self.spent_at is None and now - self.counted > LOOK_S:
            self.counted = now
            self.spent_at = now if self.desk.meter.spent() else None
        if self.spent_at is not None and (self.proxy.exhausted or now - self.spent_at > LAST_S):
            return f"its budget is spent ({self.desk.meter.spent()})"
        busy = self.proxy.active or self.desk.active
        signs = max(self.heard, self.proxy.touched, self.desk.touched)
        if not busy and now - signs > self.settings.idle_s:
            return f"no sign of life for {self.settings.idle_s:g} s"
        return None

    def _read(self, lines: "_Lines", last: bool = False) -> None:
        """Takes what the agent said since, from its output or from a file that it keeps."""
        found = lines.more()
        if last and lines.rest:
            found.append(lines.rest)
        if found:
            self.heard = time.monotonic()
        if self.settings.transcript_file:
            found = self._kept(self.settings.transcript_file, last)
        for line in found:
            self._keep(self.parser.feed(line))

    def _kept(self, name: str, last: bool) -> list[bytes]:
        """The agent's own file, if it may have changed since it was read."""
        now = time.monotonic()
        if not last and now - self.looked < LOOK_S:
            return []
        self.looked = now
        where = Path(name)
        try:  # no folder on the way may be a link: we have rights that the agent has not
            folder = open_folder(self.agent.home, str(where.parent))
            try:
                text = read_bytes(Path(where.name), LINE.bytes, folder)
            finally:
                os.close(folder)
        except IntegrityError:
            return []
        if text == self.text:
            return []
        self.text, self.heard = text, now
        return [text]

    def _keep(self, turns: list[Turn]) -> None:
        for turn in turns:
            self.trace.message(turn)


class _Lines:
    """The lines of a file that grows, each whole, none longer than is read."""

    def __init__(self, file: Any) -> None:
        self.file, self.rest, self._skip = file, b"", False

    def more(self) -> list[bytes]:
        """The lines that came since."""
        found = []
        while piece := self.file.read(1 << 20):
            *lines, self.rest = (self.rest + piece).split(b"\n")
            for line in lines:
                if not self._skip:
                    found.append(line + b"\n")
                self._skip = False
            if len(self.rest) > LINE.bytes:
                self.rest, self._skip = b"", True
        return found
