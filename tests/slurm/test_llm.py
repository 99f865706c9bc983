"""Language models in every role, on Slurm, on the embedded default's model."""

import subprocess
import sys
from pathlib import Path

import pytest

from aevo.files.documents import read
from aevo.files.paths import Layout
from aevo.plan.cancel import cancel_all
from aevo.records.manifest import Manifest
from tests.rounds.test_llm_round import FEW_STEPS, agent, check_roles
from tests.slurm.conftest import QUICK, Slurm
from tests.support.brains import researcher
from tests.support.fake_openai import FakeOpenAI
from tests.support.openai_support import KEY
from tests.support.role_brains import by_role

pytestmark = [pytest.mark.together("slurm"), pytest.mark.long(60)]


def test_round_of_language_models_on_slurm(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key travels to the workers, collector and meta in their jobs' environment, and to no
    job that runs a training stack's code."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    layout = Layout(tmp_path / "runs" / "tiny-seed1")
    with FakeOpenAI(by_role(researcher), key=KEY) as server:
        command = [
            sys.executable,
            "-m",
            "aevo.round",
            *agent(server),
            *QUICK,
            *FEW_STEPS,
            f"runs={tmp_path}/runs",
            "+round=1",
            "worker.n=2",
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, cwd=tmp_path, timeout=500
            )
        finally:
            cancel_all(layout)
    assert done.returncode == 0, done.stderr
    manifests = [read(Manifest, layout.round(1).candidate(f"c{n:02d}").manifest) for n in range(2)]
    assert [item.status for item in manifests] == ["ok"] * 2
    check_roles(layout, server.model)
    assert not [
        path
        for path in layout.root.rglob("*")
        if path.is_file() and KEY.encode() in path.read_bytes()
    ]
