"""A whole round on the architecture of Nemotron 3, trained by megatron-core on two ranks."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

pytest.importorskip("megatron.core", reason="megatron-core is not installed")

from aevo.files.documents import read
from aevo.files.paths import Layout
from aevo.plan.cancel import cancel_all
from aevo.records.leaderboard import Leaderboard
from aevo.records.manifest import Manifest
from aevo.records.scores import TrainingResult
from tests.conftest import REPO, SANDBOX

pytestmark = pytest.mark.long(50)

NAME = "tiny_nemotron_h-seed1"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose campaigns' jobs end with the test."""
    yield tmp_path
    for campaign in (tmp_path / "runs").glob("*/"):
        cancel_all(Layout(campaign))


def run_round(folder: Path, *overrides: str) -> "subprocess.CompletedProcess[str]":
    argv = [
        sys.executable,
        "-m",
        "aevo.round",
        "+round=1",
        "model=tiny_nemotron_h",
        f"runs={folder / 'runs'}",
        f"cluster.slot_folder={folder / 'slots'}",
        "worker.n=2",
        "worker.anchor_seeds=1",
        "model.recipe.train.steps=4",
        *SANDBOX,
        *overrides,
    ]
    return subprocess.run(
        argv,
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=400,
        env=os.environ | {"AEVO_CACHE": str(folder / "cache"), "PYTHONPATH": str(REPO)},
    )


def test_round_with_megatron_on_two_ranks(folder: Path) -> None:
    """The ranks are in the sandbox and meet over loopback; experts are divided among them. Routed
    experts and the head carry adapters, too, of ranks of their own: the whole way, from the trusted
    check to the leaderboard's own evaluation."""
    done = run_round(
        folder,
        "trainer=megatron",
        "trainer.processes=2",
        "trainer.options.expert=2",
        "evaluator=hf",
        "+model.recipe.train.lora.targets=[all,out_proj,experts,lm_head]",
        "+model.recipe.train.lora.ranks={experts: 2, lm_head: 4}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    files = Layout(folder / "runs" / NAME).round(1)
    for name in ("c00", "c01"):
        candidate = files.candidate(name)
        manifest = read(Manifest, candidate.manifest)
        assert manifest.status == "ok", manifest.failure
        assert manifest.selected is not None and manifest.selected.adapter_sha256
        adapter = candidate.run(1).adapter(manifest.selected.checkpoint)
        names = load_file(adapter / "adapter_model.safetensors")
        assert any(".mixer.experts.1.up_proj.lora_B" in name for name in names)
        assert names["base_model.model.lm_head.lora_A.weight"].shape[0] == 4
        result = read(TrainingResult, candidate.run(1).result)
        assert result.status == "ok" and result.steps == 4
        raw = json.loads(candidate.run(1).result.read_text())
        assert raw["layout"] == {
            "tensor": 1,
            "pipeline": 1,
            "expert": 2,
            "precision": "fp32",
            "micro_batch": 0,
            "micro_tokens": 0,
            "recompute": "none",
            "processes": 2,
        }
    board = read(Leaderboard, files.leaderboard)
    assert {item.candidate for item in board.submissions} == {"c00", "c01"}
    assert all(item.error is None for item in board.submissions)
