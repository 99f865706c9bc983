"""Language models in every role, on Slurm."""

import pytest

from aevo.records.io import read
from aevo.records.manifest import Manifest
from tests.brains import researcher
from tests.conftest import Cli
from tests.fake_openai import FakeOpenAI
from tests.openai_support import KEY
from tests.role_brains import by_role
from tests.slurm.conftest import Slurm
from tests.test_llm_round import agent, check_roles


def test_round_of_eight_language_models_on_slurm(
    slurm: Slurm, slurm_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key travels to the workers, collector and meta in their jobs' environment, and to no
    job that runs a training stack's code."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with FakeOpenAI(by_role(researcher), key=KEY) as server:
        done = slurm_cli.run("round", "+round=1", *agent(server), n=8)
    assert done.returncode == 0, done.stderr
    layout = slurm_cli.layout()
    manifests = [read(Manifest, layout.round(1).candidate(f"c{n:02d}").manifest)
                 for n in range(8)]
    assert [item.status for item in manifests] == ["ok"] * 8
    check_roles(layout, server.model)
    assert not [path for path in layout.root.rglob("*")
                if path.is_file() and KEY.encode() in path.read_bytes()]
