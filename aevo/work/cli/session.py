"""One candidate's work by an agent of others: started, watched, asked again, ended.

The agent is started in its sandbox with the same brief that our own loop gives. It has ended well
when it called `finish`. One that exits without is asked again (`agent.asks` times, with its own
session where `agent.again` says how); one that says nothing, asks nothing and calls nothing for
`agent.idle_s` seconds is stopped, which counts as an exit; one that does not connect to its tools
within `agent.start_s` is ended at once. Then the manifest is written from the records, as when our
loop ends.

The trace is the only state: exits, calls, budgets are read from it. Killed and started again, calls
under way go on, and the agent is told that it was cut off.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from aevo import sandbox
from aevo.config.agent import CliAgent
from aevo.errors import ConfigError
from aevo.files import roundlog, words
from aevo.files.untrusted import read_end, scratch_folder
from aevo.llm.endpoint import locate
from aevo.llm.prompts import render
from aevo.llm.retry import EndpointError
from aevo.records.trace import Turn
from aevo.start.agent import check, program
from aevo.work.broker import Broker
from aevo.work.budget import Meter
from aevo.work.cli import client, confine, inside, tools
from aevo.work.cli.desk import OURS, Desk
from aevo.work.cli.proxy import ModelProxy
from aevo.work.cli.serving import Http, Tcp, serve
from aevo.work.cli.still import Stillness
from aevo.work.cli.watching import Ended, SessionError, Watch
from aevo.work.loop import Outcome
from aevo.work.shell import show_frozen
from aevo.work.tools import Toolbox

HANDED_S = 60.0  # until the sandbox stands and its ports are there
CALLS = 12  # that an agent is reminded of when it is asked again
SAID = 300  # characters of a reason


def agent_name(settings: CliAgent) -> str:
    """How manifests and traces name it."""
    try:
        return f"{settings.name} with {locate(settings).model}"
    except EndpointError:
        return settings.name


class Agent:
    """The agent of one candidate, over as many sessions as it takes."""

    def __init__(self, broker: Broker, settings: CliAgent, desk: Desk) -> None:
        self.broker, self.settings, self.desk = broker, settings, desk
        self.trace, self.fork = broker.trace, broker.files.fork
        self.folder = broker.files.agent
        self.home = self.folder / "home"
        self.tell = partial(roundlog.tell, broker.round.log, broker.candidate.id)

    def work(self, opening: list[Turn]) -> Outcome:
        """Runs or continues the agent's work until it has finished or is ended by rule."""
        for turn in opening[len(self.trace.turns()) :]:
            self.trace.message(turn)
        while not self.desk.finished.is_set():
            exits = self._exits()
            spent = self.desk.meter.spent()
            if spent:
                return Outcome(spent)
            if len(exits) > self.settings.asks:
                return Outcome(f"asks: it ended {len(exits)} times without `finish` ({exits[-1]})")
            number = self._number()
            again = self._again(interrupted=number > len(exits) + 1) if number > 1 else ""
            if again:
                self.trace.message(Turn(role="user", content=again))
            try:
                ended = self._session(number, opening, again)
            except (SessionError, sandbox.SandboxError, EndpointError) as error:
                self.tell(f"the agent cannot work: {error.what}")
                return Outcome(error.what)
            if not self.desk.finished.is_set():
                why = ended.why or f"exit code {ended.code}{self._last_words(number)}"
                self.trace.note("note", agent_exit=len(exits) + 1, why=words.line(why, SAID))
                self.tell(f"the agent ended without `finish`: {words.line(why, SAID)}")
        return Outcome("finished")

    def _exits(self) -> list[str]:
        """Why each session so far ended without `finish`."""
        events = [event.data for event in self.trace.events if "agent_exit" in event.data]
        return [str(data.get("why")) for data in events]

    def _number(self) -> int:
        """The number of the next session, which is put on record before it starts."""
        number = 1 + sum("session" in event.data for event in self.trace.events)
        self.trace.note("note", session=number, agent=agent_name(self.settings))
        return number

    def _again(self, interrupted: bool) -> str:
        """What the agent is told when it is started once more."""
        turns = self.trace.turns()
        answers = {turn.tool_call_id: turn.content for turn in turns if turn.role == "tool"}
        calls = [call for turn in turns for call in turn.tool_calls if call.id.startswith(OURS)]
        shown = [
            (call.name, json.dumps(call.arguments)[:SAID], words.line(answers.get(call.id, "?")))
            for call in calls[-CALLS:]
        ]
        by_mcp = self.settings.tools_by == "mcp"
        return render("work", "agent_again", interrupted=interrupted, calls=shown, mcp=by_mcp)

    def _session(self, number: int, opening: list[Turn], again: str) -> Ended:
        """Starts the agent, and waits until it has ended or must be ended.

        Raises:
            SessionError: it cannot work here. SandboxError: nothing confines it.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        token = f"aevo-{secrets.token_hex(16)}"
        proxy = ModelProxy(
            self.settings, token, self.trace, self.desk.meter.spent, on_outage=self.tell
        )
        output = self.folder / f"session-{number}.out"
        errors = self.folder / f"session-{number}.err"
        with (
            scratch_folder("aevo-agent-") as scratch,
            output.open("wb") as out,
            errors.open("wb") as err,
        ):
            ours, theirs = socket.socketpair()
            process = self._spawn(str(scratch), theirs, out, err)
            theirs.close()
            self.desk.still.root = process.pid
            try:
                with ours:
                    ports = self._handed(ours, process, errors)
                    ours.sendall(json.dumps(self._given(opening, again, token)).encode())
                with self._served(ports, proxy, token):
                    watch = Watch(self, proxy, process, output, number)
                    return watch.until_the_end()
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                self.desk.still.root = None
                proxy.close()

    def _spawn(self, scratch: str, control: socket.socket, out: Any, err: Any) -> Any:
        settings, campaign = self.settings, self.broker.campaign
        kind = sandbox.require(campaign.config.sandbox)
        substrate = str(campaign.substrate.root.resolve())
        show_frozen(self.fork, substrate)
        read = [substrate, *([campaign.rows] if campaign.rows else [])]
        allowed = confine.confinement(
            settings, self.fork, self.home, scratch, read, campaign.sealed
        )
        env = confine.variables(self.home, substrate, scratch, program(settings))
        argv = [sys.executable, "-I", "-S", inside.__file__]
        return subprocess.Popen(
            sandbox.wrap(argv, str(self.fork), env, allowed, kind),
            cwd=self.fork,
            stdin=control.fileno(),
            stdout=out,
            stderr=err,
            start_new_session=True,
            env=env,
        )

    def _handed(self, control: socket.socket, process: Any, errors: Path) -> list[socket.socket]:
        """The two listening sockets out of the sandbox.

        Raises:
            SessionError: they do not come.
        """
        control.settimeout(HANDED_S)
        try:
            _, handles, _, _ = socket.recv_fds(control, 1, 2)
        except OSError:  # a time-out too
            handles = []
        if len(handles) == 2:
            return [socket.socket(fileno=handle) for handle in handles]
        for handle in handles:
            os.close(handle)
        process.poll()
        said = words.line(read_end(errors, 2000).decode(errors="replace"))
        raise SessionError(f"a sandbox with a loopback of its own ({said or 'no answer'})")

    def _given(self, opening: list[Turn], again: str, token: str) -> dict[str, Any]:
        """What is told to `inside.py`."""
        settings = self.settings
        resumes = bool(again and settings.again)
        brief = [turn.content for turn in opening]
        brief.append(
            render("work", "agent_tools", tools_by=settings.tools_by, wait_s=f"{settings.wait_s:g}")
        )
        prompt = again if resumes else "\n\n".join([*brief, again])
        return {
            "argv": settings.again if resumes else settings.command,
            "env": settings.env,
            "files": settings.files,
            "stdin": settings.prompt_on_stdin,
            "home": str(self.home),
            "python": [sys.executable, "-I", "-S", client.__file__],
            "words": {
                "prompt": prompt.strip() + "\n",
                "token": token,
                "model": locate(settings).model,
                "wait_s": f"{settings.wait_s:.0f}",
                "context_tokens": str(settings.context_tokens),
            },
        }

    @contextmanager
    def _served(self, ports: list[socket.socket], proxy: ModelProxy, token: str) -> Iterator[None]:
        """Answers what connects to the two ports."""
        model = serve(Http, ports[0], proxy.handler())
        desk = serve(Tcp, ports[1], tools.handler(self.desk, token))
        try:
            yield
        finally:
            for server in (model, desk):
                server.shutdown()
                server.server_close()

    def _last_words(self, number: int) -> str:
        """What a session said last on its standard error, or else its output."""
        for name in ("err", "out"):
            text = read_end(self.folder / f"session-{number}.{name}", 4000).decode(errors="replace")
            lines = [line for line in text.splitlines() if line.strip()]
            if lines:
                return f": {words.line(lines[-1], SAID)}"
        return ""


def run_agent(broker: Broker, toolbox: Toolbox, opening: list[Turn], meter: Meter) -> Outcome:
    """Lets the configured agent work on a candidate until it has finished or is ended by rule."""
    settings = broker.campaign.config.agent
    if not isinstance(settings, CliAgent):
        raise TypeError("the campaign has no agent of others")
    try:
        check(settings)
    except ConfigError as error:
        roundlog.tell(broker.round.log, broker.candidate.id, f"the agent cannot work: {error}")
        return Outcome(f"a working agent: {error.what}")
    still = Stillness()
    toolbox.broker = broker = replace(broker, still=still)
    desk = Desk(toolbox, broker.trace, meter, settings.wait_s, still)
    return Agent(broker, settings, desk).work(opening)
