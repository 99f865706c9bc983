"""Coding agents of others as the workers of whole rounds: real ones, at the fake endpoint.

Those that `.ci/run` installs lie in `.agents/`; others are tried where they are on PATH. Each
speaks the protocol of its own model: chat completions, Responses, Messages, generateContent. One
works on the tiny model, the others on the regression stack, where a training costs next to nothing;
AEVO_SLOW=1 runs each on both, and rounds of eight.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aevo.files.documents import read, read_lines
from aevo.files.paths import Layout
from aevo.records.manifest import Manifest
from aevo.records.trace import Event
from aevo.sandbox import probe
from aevo.view.trace import view
from tests.conftest import REPO, Cli
from tests.rounds.test_llm_round import FEW_STEPS, check_roles
from tests.support.agent_brains import coder
from tests.support.fake_openai import FakeOpenAI
from tests.support.openai_support import KEY
from tests.support.role_brains import by_role

pytestmark = [
    pytest.mark.long(30),
    pytest.mark.skipif(probe() == "none", reason="no sandbox holds on this machine"),
]
PROGRAMS = {
    "opencode": "opencode",
    "mini_swe": "mini",
    "codex": "codex",
    "claude_code": "claude",
    "gemini_cli": "gemini",
}
BOTH = ("opencode", "mini_swe")  # one of npm, one of PyPI, in every kind of round
ON_SLURM = "opencode"  # the one that always works there
PLACES = [REPO / ".agents" / "npm" / "node_modules" / ".bin", REPO / ".agents" / "mini" / "bin"]
PATH = os.pathsep.join([*map(str, PLACES), os.environ.get("PATH", os.defpath)])
slow = pytest.mark.skipif("AEVO_SLOW" not in os.environ, reason="slow: AEVO_SLOW=1 runs it")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("PATH", PATH)
    with FakeOpenAI(by_role(coder), key=KEY) as running:
        yield running


def agent(name: str, server: FakeOpenAI) -> list[str]:
    """The settings, as a user with a gateway gives them; skips where the agent is not installed."""
    if shutil.which(PROGRAMS[name], path=PATH) is None:
        pytest.skip(f"{PROGRAMS[name]} is not installed (.ci/run installs some)")
    given = [f"agent={name}", f"agent.base_url={server.url}", f"agent.model={server.model}"]
    upstream = {"gemini_cli": f"{server.url}beta", "claude_code": server.url}.get(name)
    if upstream:
        given.append(f"agent.upstream={upstream}")
    return [*given, "agent.api_key_env=OPENAI_API_KEY", "agent.price_in=1", "agent.price_out=4"]


def check(layout: Layout, name: str, model: str, n: int) -> None:
    """Every explorer did what the model said, through the agent, and all of it is on record."""
    files = layout.round(1)
    manifests = [read(Manifest, files.candidate(f"c{i:02d}").manifest) for i in range(n)]
    assert [item.status for item in manifests] == ["ok"] * n, [item.failure for item in manifests]
    assert manifests[0].agent == "scripted"
    for item in manifests[1:]:
        assert item.agent == f"{name} with {model}"
        assert item.claims.summary == "one change by an agent of others"
        assert item.change.set and item.selected and item.selected.dev != item.claims.claimed_dev
        assert item.cost.turns >= 5 and item.cost.tokens_in > 500 and item.cost.dollars
        events = read_lines(Event, files.candidate(item.candidate).trace)
        shown = "\n".join(line.text for line in view(events, None, False))
        for word in ("Step 0.", "own:", "train()", "evaluate(run=1)", "-> finish: finished"):
            assert word in shown, shown
    check_roles(layout, model)
    having = [
        path
        for path in layout.root.rglob("*")
        if path.is_file() and not path.is_symlink() and KEY.encode() in path.read_bytes()
    ]
    assert having == [], "the key was written to a file"


def always(names: Iterable[str], quick: Collection[str]) -> list[Any]:
    """Cases, of which only `quick` ones always run."""
    return [pytest.param(name, marks=() if name in quick else slow) for name in names]


@pytest.mark.parametrize("name", always(PROGRAMS, [n for n in PROGRAMS if n != ON_SLURM]))
def test_round_of_an_agent(name: str, cli: Cli, server: FakeOpenAI) -> None:
    done = cli.run("round", "+round=1", *agent(name, server), "worker.anchor_seeds=1", n=2)
    assert done.returncode == 0, done.stderr
    check(cli.layout(), name, server.model, 2)


@slow
@pytest.mark.parametrize("name", BOTH)
def test_round_of_eight_agents(name: str, cli: Cli, server: FakeOpenAI) -> None:
    done = cli.run("round", "+round=1", *agent(name, server), n=8, timeout_s=900)
    assert done.returncode == 0, done.stderr
    check(cli.layout(), name, server.model, 8)


@pytest.mark.together("agents on tiny")
@slow
@pytest.mark.parametrize("name", BOTH)
def test_round_of_an_agent_on_the_tiny_model(name: str, tmp_path: Path, server: FakeOpenAI) -> None:
    given = [*agent(name, server), *FEW_STEPS, f"runs={tmp_path}/runs", "+round=1", "worker.n=2"]
    done = subprocess.run(
        [sys.executable, "-m", "aevo.round", *given],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    check(Layout(tmp_path / "runs" / "tiny-seed1"), name, server.model, 2)


def test_an_agent_that_is_not_installed_is_one_line(cli: Cli, server: FakeOpenAI) -> None:
    given = ["agent=cli", f"agent.base_url={server.url}", f"agent.model={server.model}"]
    for command, word in (
        ("no-such-agent --task", "no-such-agent is not installed"),
        ("", "not set"),
    ):
        done = cli.run("round", "+round=1", *given, f"agent.command={json.dumps(command)}", n=2)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
        assert word in done.stderr
    assert not cli.layout().campaign.exists()
