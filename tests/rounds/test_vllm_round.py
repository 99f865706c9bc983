"""A whole round whose baseline, evaluations and leaderboard are answered by vLLM's stand-in."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aevo.files.documents import read
from aevo.files.paths import Layout
from aevo.plan.cancel import cancel_all
from aevo.records.leaderboard import Leaderboard
from aevo.records.manifest import Manifest
from tests.conftest import REPO, SANDBOX

STAND_IN = REPO / "tests" / "support" / "vllm_stand_in"
COMMAND = shlex.join(["env", f"PYTHONPATH={STAND_IN}", sys.executable])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose campaigns' jobs end with the test."""
    yield tmp_path
    for campaign in (tmp_path / "runs").glob("*/"):
        cancel_all(Layout(campaign))


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("AEVO_SLOW") != "1", reason="half a minute; set AEVO_SLOW=1")
def test_round_with_vllm(folder: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "aevo.round",
        "+round=1",
        "model=tiny",
        f"runs={folder / 'runs'}",
        f"cluster.slot_folder={folder / 'slots'}",
        "worker.n=2",
        "worker.anchor_seeds=1",
        "+model.recipe.train.steps=20",
        "model.dev_items=60",
        "model.hidden_items=60",
        *SANDBOX,
        "evaluator=vllm",
        f"evaluator.options.command={json.dumps(COMMAND)}",
        "evaluator.options.max_tokens=48",
        "evaluator.options.dtype=float32",
    ]
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=580,
        env=os.environ | {"PYTHONPATH": str(REPO)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    layout = Layout(folder / "runs" / "tiny-seed1")
    files = layout.round(1)
    for name in ("c00", "c01"):
        manifest = read(Manifest, files.candidate(name).manifest)
        assert manifest.status == "ok", manifest.failure
        scores = json.loads(files.candidate(name).run(1).scores.read_text())
        assert scores["decoder"] == "vllm" and scores["scores"]
    assert json.loads((layout.baseline / "scores.json").read_text())["scores"]["base"]["n"] == 60
    board = read(Leaderboard, files.leaderboard)
    assert {item.candidate for item in board.submissions} == {"c00", "c01"}
    assert all(item.error is None for item in board.submissions)
