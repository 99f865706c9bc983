"""Language models in every role, over real HTTP: whole rounds, faults, and kills at any point."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aevo.files.documents import read, read_lines
from aevo.files.paths import Layout
from aevo.records.evidence import Evidence
from aevo.records.job import LedgerLine
from aevo.records.manifest import Manifest
from aevo.records.policy import Policy
from aevo.records.trace import Event, Trace
from tests.conftest import Cli, until
from tests.support.brains import TAUGHT, curious, researcher
from tests.support.fake_faults import Fault, error, hang, rate_limited
from tests.support.fake_openai import FakeOpenAI
from tests.support.openai_support import KEY
from tests.support.role_brains import by_role

pytestmark = pytest.mark.long(60)

SLOW = "AEVO_SLOW" in os.environ
CANDIDATES = 8 if SLOW else 2

# The tiny model, trained just enough to leave an adapter.
FEW_STEPS = (
    "worker.anchor_seeds=1",
    "model.dev_items=60",
    "model.hidden_items=60",
    "+model.recipe.train.steps=6",
    "+model.recipe.data.examples=400",
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with FakeOpenAI(by_role(researcher), key=KEY) as running:
        yield running


def agent(server: FakeOpenAI, *more: str) -> tuple[str, ...]:
    """The two settings that a newcomer gives."""
    return "agent=openai", f"agent.base_url={server.url}", f"agent.model={server.model}", *more


class Bench:
    """A round of language models, and one explorer of it whose worker is run by hand, again and
    again."""

    def __init__(self, cli: Cli, server: FakeOpenAI) -> None:
        more = [] if SLOW else ["worker.anchor_seeds=1"]
        more += ["worker.trainings=1", "agent.timeout_s=4", "agent.price_in=1", "agent.price_out=4"]
        library = cli.folder / "papers"
        library.mkdir()
        (library / "schedules.md").write_text("A stable warmup-decay schedule cools at the end.\n")
        teacher = ["teacher=openai", f"teacher.base_url={server.url}", "teacher.model=fake-model"]
        more += [*teacher, "teacher.price_in=1", "teacher.price_out=4", f"knowledge={library}"]
        done = cli.run("round", "+round=1", *agent(server, *more), n=CANDIDATES)
        assert done.returncode == 0, done.stderr
        self.cli, self.server, self.layout = cli, server, cli.layout()
        self.files = self.layout.round(1)
        self.here = self.files.candidate("c01")
        self.calm = self.manifest()

    def manifest(self) -> dict[str, Any]:
        """What was decided: all but times and costs."""
        data = read(Manifest, self.here.manifest).model_dump()
        data["cost"] = None
        for run in data["runs"]:
            run["seconds"] = run["attempt"] = None
        return data

    def start(self) -> "subprocess.Popen[str]":
        code = (
            "import sys; from aevo.work.worker import main; "
            f"main([{str(self.layout.root)!r}, '1', 'c01'])"
        )
        return subprocess.Popen(
            [sys.executable, "-c", code],
            start_new_session=True,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def trainings(self) -> int:
        """Training jobs that ever ran. One that was killed with the worker that had just submitted
        it, before it had a process group of its own, did not, and is submitted again."""
        return sum(
            line.event == "started"
            for ledger in self.files.jobs.glob("c01-train-*/ledger*")
            for line in read_lines(LedgerLine, ledger)
        )

    def moments(self) -> int:
        """How many moments to be killed in there were: behind each tool's first call, which is then
        cut off; behind each line of the trace where slow tests run."""
        events = read_lines(Event, self.here.trace) if self.here.trace.exists() else []
        if SLOW:
            return len(events)
        calls = [event.turn.tool_calls for event in events if event.turn is not None]
        return len({asked[0].name for asked in calls if asked})


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        with FakeOpenAI(by_role(curious), key=KEY) as running:
            yield Bench(Cli(tmp_path_factory.mktemp("llm")), running)


def test_round_of_language_models(bench: Bench) -> None:
    files = bench.files
    manifests = [read(Manifest, files.candidate(f"c{n:02d}").manifest) for n in range(CANDIDATES)]
    anchor, explorers = manifests[0], manifests[1:]
    assert (anchor.status, anchor.agent, anchor.cost.tokens_in) == ("ok", "scripted", 0)
    assert all(item.agent == bench.server.model for item in explorers)
    assert all(item.status == "ok" and item.cost.tokens_in > 0 for item in explorers)
    assert all(item.cost.dollars and item.cost.dollars > 0 for item in explorers)
    assert all(item.selected and item.selected.dev != item.claims.claimed_dev for item in explorers)
    assert sum(not item.change.empty for item in explorers) >= len(explorers) * 5 // 7
    check_roles(bench.layout, bench.server.model)
    for item in explorers:
        trace = Trace(files.candidate(item.candidate).trace)
        told = {turn.tool_call_id: turn.content for turn in trace.turns() if turn.role == "tool"}
        assert told["call-0-ask"].startswith(
            "teacher: Cool for the last fifth.\n\nschedules.md:1\n"
        )
        assert "cools at the end" in told["call-0-read"]
        (paid,) = [event for event in trace.events if event.data.get("teacher") == "answered"]
        assert paid.usage is not None and paid.usage.tokens_in == TAUGHT["prompt_tokens"]
        assert item.cost.tokens_in == trace.usage().tokens_in > paid.usage.tokens_in
        assert item.runs[0].curve, "meta reads how it went"
    secrets = [
        path
        for path in bench.layout.root.rglob("*")
        if path.is_file() and KEY.encode() in path.read_bytes()
    ]
    assert secrets == [], "the key was written to a file"


def check_roles(layout: Layout, model: str) -> None:
    """Collector and meta were the model too, and the records say so."""
    files = layout.round(1)
    prose = read(Evidence, files.evidence).prose
    assert prose is not None and prose.author == model
    session = json.loads((files.meta / "session.json").read_text())
    assert session["author"] == model
    assert read(Policy, layout.policy(2)).round == 2


@pytest.mark.skipif(not SLOW, reason="slow: AEVO_SLOW=1 runs it")
def test_round_of_eight_language_models_on_the_tiny_model(
    tmp_path: Path, server: FakeOpenAI
) -> None:
    """The embedded default itself, with few training steps. Three of them on Slurm, always:
    tests/slurm/test_llm.py; an agent of others, always: tests/rounds/test_cli_round.py."""
    overrides = [*agent(server), *FEW_STEPS, f"runs={tmp_path}/runs", "+round=1"]
    done = subprocess.run(
        [sys.executable, "-m", "aevo.round", *overrides],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    layout = Layout(tmp_path / "runs" / "tiny-seed1")
    manifests = [read(Manifest, layout.round(1).candidate(f"c{i:02d}").manifest) for i in range(8)]
    assert [item.status for item in manifests] == ["ok"] * 8
    check_roles(layout, server.model)


def test_wrong_endpoint_is_one_line_before_anything_is_submitted(
    cli: Cli, server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-0000000000")
    cases = {
        "key": agent(server),
        "gpt-0": (*agent(server)[:2], "agent.model=gpt-0"),
        "127.0.0.1:9": (
            "agent=openai",
            "agent.base_url=http://127.0.0.1:9/v1",
            "agent.model=x",
            "agent.retries=0",
        ),
        "agent.base_url": ("agent=openai", "agent.model=x"),
    }
    for word, overrides in cases.items():
        if word == "gpt-0":
            monkeypatch.setenv("OPENAI_API_KEY", KEY)
        done = cli.run("round", "+round=1", *overrides, n=2)
        assert done.returncode != 0, word
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1 and word in lines[0], done.stderr
        assert "wrong-0000" not in done.stderr
    assert not cli.layout().campaign.exists()


def test_every_fault_ends_in_the_same_manifest(bench: Bench) -> None:
    """One or two at each step of the conversation: waits double with each in a row."""
    bench.cli.reset(1, "c01")
    broken = {"tool_calls": [{"id": "m", "name": "train", "arguments": "{broken"}]}
    faults = [
        ("Step 5.", Fault(drop="before")),
        ("Step 4.", Fault(drop="middle")),
        ("Step 4.", hang(60)),
        ("Step 3.", Fault(reply={"content": ""})),
        ("Step 3.", rate_limited(0.05)),
        ("Step 2.", Fault(reply=broken)),
        ("Step 2.", rate_limited()),
        ("Step 1.", Fault(status=200, body="<html>gateway</html>")),
        ("Step 1.", error(500, "oops")),
        ("Step 0.", Fault(status=200, body="{not json")),
        ("Step 0.", error(503, "overloaded")),
    ]
    bench.server.faults.add(*(replace(fault, match=step) for step, fault in faults))
    worker = bench.start()
    said, _ = worker.communicate(timeout=120)
    assert worker.returncode == 0, said
    assert bench.server.faults.left() == 0, "not every fault happened"
    assert bench.manifest() == bench.calm and bench.trainings() == 1


def test_a_kill_at_every_kind_of_turn_ends_in_the_same_manifest(bench: Bench) -> None:
    bench.cli.reset(1, "c01")
    kills, seen = 0, 0
    while not bench.here.manifest.exists():
        worker = bench.start()
        until(
            lambda process=worker, seen=seen: (  # type: ignore[misc]
                bench.moments() > seen or process.poll() is not None
            ),
            60,
        )
        if worker.poll() is None and kills < 30:
            os.killpg(worker.pid, signal.SIGKILL)
            kills += 1
        worker.communicate(timeout=120)
        seen = bench.moments()
    assert kills >= (12 if SLOW else 6)  # seven tools; the last may have ended by itself
    assert bench.manifest() == bench.calm and bench.trainings() == 1
