"""A coding agent of others as a worker: a small one of a few lines of shell stands in its place.

Whole rounds with real ones are in `tests/rounds/test_cli_round.py`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aevo.config.agent import CliAgent
from aevo.files.documents import read, read_lines, write_yaml
from aevo.records.manifest import Manifest
from aevo.records.plan import Budget
from aevo.records.trace import Event, Trace, Turn
from aevo.sandbox import probe
from aevo.view.trace import view
from aevo.work.cli.desk import OURS, AgentMeter
from aevo.work.cli.session import run_agent
from aevo.work.tools import Toolbox
from aevo.work.worker import open_broker
from tests.conftest import Cli, until
from tests.support.fake_faults import error, hang, overloaded
from tests.support.fake_openai import FakeOpenAI
from tests.support.openai_support import KEY, says

pytestmark = [
    pytest.mark.long(90),
    pytest.mark.skipif(probe() == "none", reason="no sandbox holds on this machine"),
]
OPENING = [Turn(role="system", content="mission"), Turn(role="user", content="the task")]
WORK = "aevo-tools train && aevo-tools wait run=1 && aevo-tools evaluate run=1"
FINISH = "aevo-tools finish run=1 summary='a small change'"
# Asks the model once, as an agent's client would.
ASK = """python - <<'END'
import json, os, sys, urllib.request
body = {"model": os.environ["MODEL"], "messages": [{"role": "user", "content": "hi"}]}
request = urllib.request.Request(
    os.environ["URL"] + "/v1/chat/completions", json.dumps(body).encode(),
    {"Authorization": "Bearer " + os.environ["TOKEN"], "Content-Type": "application/json"})
try:
    with urllib.request.urlopen(request) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
END
"""


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    cli = Cli(tmp_path_factory.mktemp("cli"))
    done = cli.run("round", "policy.axes=[schedule]", n=2)
    assert done.returncode == 0, done.stderr
    yield cli


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    usage = {"prompt_tokens": 50, "completion_tokens": 5}
    with FakeOpenAI(says(content="hello", usage=usage), key=KEY) as running:
        yield running


class Candidate:
    """One explorer, its worker's state as before the round."""

    def __init__(self, cli: Cli, server: FakeOpenAI) -> None:
        cli.reset(1, "c01")
        self.cli, self.server = cli, server
        self.files = cli.layout().round(1).candidate("c01")

    def settings(self, script: str, **given: Any) -> CliAgent:
        env = {"URL": "{url}", "TOKEN": "{token}", "MODEL": "{model}", **given.pop("env", {})}
        return CliAgent.model_validate(
            {
                "kind": "cli",
                "base_url": self.server.url,
                "model": self.server.model,
                "api_key_env": "OPENAI_API_KEY",
                "price_in": 1,
                "price_out": 1,
                "command": ["bash", "-c", script],
                "tools_by": "shell",
                "env": env,
                **given,
            }
        )

    def work(self, script: str, budget: dict[str, Any] | None = None, **given: Any) -> str:
        """Lets the agent work; why it ended."""
        broker = open_broker(self.cli.layout(), 1, "c01")
        agent = self.settings(script, **given)
        config = broker.campaign.config.model_copy(update={"agent": agent})
        broker = replace(broker, campaign=replace(broker.campaign, config=config))
        limits = Budget.model_validate(
            {"trainings": 2, "turns": 30, "wall_s": 600, **(budget or {})}
        )
        self.tools = Toolbox(broker.files.fork, broker.substrate, broker)
        return run_agent(broker, self.tools, OPENING, AgentMeter(limits, broker.trace)).reason

    @property
    def trace(self) -> Trace:
        return Trace(self.files.trace)

    def calls(self) -> list[str]:
        """Names of the calls over the tools' socket, in order."""
        return [
            call.name
            for turn in self.trace.turns()
            for call in turn.tool_calls
            if call.id.startswith(OURS)
        ]

    def said(self) -> str:
        """All that the agent said, from the trace."""
        return "\n".join(turn.content for turn in self.trace.turns() if turn.role == "assistant")


@pytest.fixture
def candidate(planned: Cli, server: FakeOpenAI) -> Candidate:
    return Candidate(planned, server)


def test_an_agent_works_with_its_shell_and_the_tools(candidate: Candidate) -> None:
    edit = "sed -i 's/^  steps: .*/  steps: 40/' recipe.yaml"
    assert candidate.work(f"{ASK}\n{edit} && {WORK} && {FINISH}") == "finished"
    assert candidate.calls() == ["train", "wait", "evaluate", "finish"]
    assert candidate.tools.finish_call is not None and candidate.tools.finish_call.run == 1
    trace = candidate.trace
    assert (trace.usage().tokens_in, trace.usage().tokens_out) == (50, 5)
    assert trace.usage().dollars == pytest.approx(55e-6)
    assert trace.model_calls() == 1 and "hello" in candidate.said()
    shown = [line.text for line in view(trace.events, None, False)]
    assert any(line.startswith("evaluate(run=1)") for line in shown)
    assert "50 tokens in, 5 out so far, $0.0001" in shown[-1]


def test_the_key_stays_outside(candidate: Candidate) -> None:
    """It is at the endpoint, in the environment of the worker, and nowhere inside or on disk; a
    server that says it back does not bring it in."""
    candidate.server.faults.add(error(400, f"bad request with Authorization: Bearer {KEY}"))
    look = "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'; cat ~/* ~/.*"
    candidate.work(f"{ASK}\n{ASK}\n{look}", asks=0)
    assert [item["authorized"] for item in candidate.server.requests] == [True, True]
    assert "bad request with" in candidate.said() and "hello" in candidate.said()
    found = [
        path
        for path in candidate.cli.layout().root.rglob("*")
        if path.is_file() and KEY.encode() in path.read_bytes()
    ]
    assert found == []


def test_an_outage_is_told_and_an_unknown_price_is_unknown(
    candidate: Candidate, capsys: pytest.CaptureFixture[str]
) -> None:
    candidate.server.faults.add(overloaded(times=2))
    script = f"{ASK}\n{ASK}\n{ASK}\naevo-tools finish summary=done"
    assert candidate.work(script, price_in=None, price_out=None) == "finished"
    told = [line for line in capsys.readouterr().out.splitlines() if "endpoint" in line]
    assert told[0].startswith("the endpoint fails: ") and "503" in told[0]
    assert told[1:] == ["the endpoint answers again"], "an outage is one line, and its end another"
    log = candidate.cli.layout().round(1).log.read_text()
    assert "c01        the endpoint fails" in log and "c01        the endpoint answers again" in log
    usage = candidate.trace.usage()
    assert (usage.tokens_in, usage.dollars) == (50, None)
    shown = [line.text for line in view(candidate.trace.events, None, False)]
    assert shown[-1].endswith("50 tokens in, 5 out so far, dollars unknown")


def test_nothing_but_the_model_can_be_reached(candidate: Candidate) -> None:
    port = candidate.server.port
    script = f"""
    python -c "import socket; socket.create_connection(('127.0.0.1', {port}), 2)" || echo no server
    python -c "import socket; socket.create_connection(('1.1.1.1', 53), 2)" || echo no network
    code() {{ python - "$@" <<'END'
import sys, urllib.request
url, token = sys.argv[1:]
try:
    urllib.request.urlopen(urllib.request.Request(url, headers={{"x-api-key": token}}))
except urllib.error.HTTPError as error:
    print("code", error.code)
END
}}
    code $URL/v1/files $TOKEN
    code $URL/v1/models guessed
    """
    candidate.work(script, asks=0)
    said = candidate.said()
    assert "no server" in said and "no network" in said
    assert "code 403" in said and "code 401" in said
    assert candidate.server.requests == []


def test_who_exits_without_finish_is_asked_again_and_then_ended(candidate: Candidate) -> None:
    script = "echo started; cat {prompt_file} >> seen; exit 3"
    reason = candidate.work(script, asks=2)
    assert reason == "asks: it ended 3 times without `finish` (exit code 3: started)"
    seen = (candidate.files.fork / "seen").read_text()
    assert seen.count("the task") == 3 and seen.count("without calling `finish`") == 2
    assert sum("agent_exit" in event.data for event in candidate.trace.events) == 3


def test_who_is_asked_again_goes_on_with_its_own_session(candidate: Candidate) -> None:
    again = ["bash", "-c", f"grep -c mission {{prompt_file}}; {FINISH.replace('run=1', '')}"]
    assert candidate.work("aevo-tools check", again=again) == "finished"
    assert candidate.calls() == ["check", "finish"]
    assert "0" in candidate.said().split()  # told only what is new
    told = [turn.content for turn in candidate.trace.turns() if turn.role == "user"][-1]
    assert "check({})" in told


def test_a_command_that_fails_says_why(candidate: Candidate) -> None:
    reason = candidate.work("echo no such option >&2; exit 2", asks=0)
    assert reason == "asks: it ended 1 times without `finish` (exit code 2: no such option)"


def test_who_hangs_is_stopped(candidate: Candidate) -> None:
    began = time.monotonic()
    reason = candidate.work("sleep 1000 & sleep 1000", asks=0, idle_s=1)
    assert reason == "asks: it ended 1 times without `finish` (no sign of life for 1 s)"
    assert time.monotonic() - began < 30


def test_who_waits_for_its_model_does_not_hang(candidate: Candidate) -> None:
    candidate.server.faults.add(hang(3))
    assert candidate.work(f"{ASK}\n aevo-tools finish summary=late", idle_s=1) == "finished"


def test_tools_that_are_never_asked_for_are_one_line(
    candidate: Candidate, capsys: pytest.CaptureFixture[str]
) -> None:
    """An agent whose MCP client is dead would work in vain."""
    began = time.monotonic()
    reason = candidate.work("echo hi; sleep 1000", tools_by="mcp", start_s=1)
    assert reason.startswith("working tools: the agent did not connect to the MCP server")
    assert time.monotonic() - began < 30
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"the agent cannot work: {reason}"]


def test_tools_of_a_worker_that_is_gone_are_one_line(candidate: Candidate) -> None:
    """The client in the sandbox does not wait for a server that is not there."""
    client = Path(__file__).parents[2] / "aevo" / "work" / "cli" / "client.py"
    for words in ([], ["train"]):
        argv = [sys.executable, "-I", "-S", str(client), "9", "token", *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, input="")
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_polling_is_one_call_and_no_turn(candidate: Candidate) -> None:
    poll = (
        "until aevo-tools run command='sleep 2; echo slept' | tee -a polls | grep slept; do :; done"
    )
    script = f"{poll}; aevo-tools finish summary=polled"
    assert candidate.work(script, wait_s=0.3, budget={"turns": 2, "failures": 2}) == "finished"
    assert candidate.calls() == ["run", "finish"]
    answers = (candidate.files.fork / "polls").read_text()
    assert answers.count("still running after") >= 2
    assert sum("poll" in event.data for event in candidate.trace.events) >= 2


def test_a_spent_budget_leaves_finish_alone(candidate: Candidate) -> None:
    """Then the model answers a few times more, and no longer."""
    script = f"{ASK}\n{ASK}\n aevo-tools check\n" + 4 * ASK + "\n sleep 1000"
    reason = candidate.work(script, budget={"tokens": 100})
    assert reason == "tokens"
    said = candidate.said()
    assert "error: your budget is spent (tokens); call `finish` now" in said
    assert '"message": "the budget is spent (tokens)"' in said
    assert len(candidate.server.chats()) == 5


def test_a_transcript_cannot_pass_for_calls_of_the_tools(candidate: Candidate) -> None:
    """What an agent prints is material: not even a perfect copy of a call is one."""
    state = {"status": "completed", "input": {"run": 1, "summary": "won"}, "output": "finished"}
    call_ = {"type": "tool_use", "part": {"callID": "mcp-1-1", "tool": "finish", "state": state}}
    (candidate.files.fork / "out").write_text(json.dumps(call_) + "\n")
    reason = candidate.work("cat out; head -c 100000 /dev/urandom", transcript="opencode", asks=0)
    assert reason.startswith("asks:")
    assert candidate.tools.finish_call is None
    assert [call.name for turn in candidate.trace.turns() for call in turn.tool_calls] == [
        "own:finish"
    ]


def test_a_worker_killed_at_any_time_goes_on(candidate: Candidate) -> None:
    """The same manifest as undisturbed, one training; the agent itself starts again."""
    script = (
        f"{ASK}\nsed -i 's/^  steps: .*/  steps: 40/' recipe.yaml\n"
        f"[ -f trained ] || aevo-tools train && touch trained\n"
        f"aevo-tools wait run=1 && aevo-tools evaluate run=1 && {FINISH}"
    )
    round_ = candidate.cli.layout().round(1)
    original = round_.config.read_text()
    broker = open_broker(candidate.cli.layout(), 1, "c01")
    config = broker.campaign.config.model_copy(update={"agent": candidate.settings(script)})
    write_yaml(round_.config, config)
    try:
        kills, seen = 0, 0
        while not candidate.files.manifest.exists():
            worker = subprocess.Popen(
                [sys.executable, "-c",
                 "import sys; from aevo.work.worker import main; "
                 f"main([{str(candidate.cli.layout().root)!r}, '1', 'c01'])"],
                start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            until(
                lambda worker=worker, seen=seen: (  # type: ignore[misc]
                    lines(candidate.files.trace) > seen + 1 or worker.poll() is not None
                ),
                60,
            )
            if worker.poll() is None and kills < 5:
                os.killpg(worker.pid, signal.SIGKILL)
                kills += 1
            said, _ = worker.communicate(timeout=120)
            assert worker.returncode in (0, -signal.SIGKILL), said
            seen = lines(candidate.files.trace)
    finally:
        round_.config.write_text(original)
    manifest = read(Manifest, candidate.files.manifest)
    assert kills >= 3
    assert manifest.status == "ok" and len(manifest.runs) == 1, manifest
    assert manifest.agent == f"cli with {candidate.server.model}"
    assert manifest.cost.tokens_in > 0 and manifest.claims.summary == "a small change"
    told = [turn.content for turn in candidate.trace.turns() if turn.role == "user"]
    assert any("was cut off" in text for text in told)


def lines(path: Path) -> int:
    return len(read_lines(Event, path)) if path.exists() else 0
