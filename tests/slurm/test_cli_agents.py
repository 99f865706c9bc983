"""Coding agents of others as workers on Slurm: real ones, at the fake endpoint."""

from pathlib import Path

import pytest

from aevo.sandbox import probe
from tests.conftest import Cli
from tests.rounds.test_cli_round import ON_SLURM, agent, check, server, slow
from tests.support.fake_openai import FakeOpenAI

__all__ = ["server"]  # a fixture, used by its name

pytestmark = [
    pytest.mark.together("slurm"),
    pytest.mark.long(20),
    pytest.mark.skipif(probe() == "none", reason="no sandbox holds on this machine"),
]


@pytest.mark.parametrize(
    ("name", "n"),
    [
        (ON_SLURM, 2),
        pytest.param("opencode", 8, marks=slow),
        pytest.param("mini_swe", 8, marks=slow),
    ],
)
def test_round_of_agents_on_slurm(name: str, n: int, slurm_cli: Cli, server: FakeOpenAI) -> None:
    """The key travels in the workers' environment and no further; the proxy that adds it, the
    tools' socket and the sandbox are on the node that the worker runs on."""
    done = slurm_cli.run("round", "+round=1", *agent(name, server), n=n, timeout_s=900)
    assert done.returncode == 0, done.stderr
    layout = slurm_cli.layout()
    check(layout, name, server.model, n)
    workers = list(layout.round(1).jobs.glob("c*-worker/ledger*"))
    assert len(workers) == n
    assert all(Path(file).read_text().count('"started"') == 1 for file in workers)
