"""scripts/gpu_check without a GPU: every step at tiny sizes, and what it does when one fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.gpu.check import PHASES
from tests.bench.gpu.table import table
from tests.conftest import REPO

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("megatron.core", reason="megatron-core is not installed")

pytestmark = pytest.mark.long(55)


def check(out: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [REPO / "scripts" / "gpu_check", "--dry", "--out", out, *options],
        capture_output=True,
        text=True,
        timeout=400,
        env=os.environ | {"AEVO_PYTHON": sys.executable},
    )


def test_dry_run_goes_through_every_phase_and_leaves_its_record(tmp_path: Path) -> None:
    done = check(tmp_path / "out")
    log = (tmp_path / "out" / "log.txt").read_text()
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{log[-3000:]}"
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["dry"] and len(list((tmp_path / "out").iterdir())) == 3
    assert [phase["name"] for phase in record["phases"]] == list(PHASES)
    assert all(phase["status"] == "ok" and phase["checks"] for phase in record["phases"])
    by_name = {phase["name"]: phase for phase in record["phases"]}
    megatron = [figure for figure in by_name["megatron"]["figures"] if "rate" in figure]
    assert len(megatron) == 4
    assert all(figure["rate"] > 0 and figure["rate_estimated"] > 0 for figure in megatron)
    skipped = {one["what"] for phase in record["phases"] for one in phase["skipped"]}
    assert "steps with Triton's scan" in skipped  # what was not tried is said
    shown = (tmp_path / "out" / "table.md").read_text()
    assert shown == table(record) and "no figure below is one of a GPU" in shown
    assert f"{megatron[0]['what']} |" in shown


def test_a_phase_that_takes_too_long_is_ended_and_counted(tmp_path: Path) -> None:
    done = check(tmp_path / "out", "--only", "environment,resume", "--cap", "0.2")
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    statuses = [phase["status"] for phase in record["phases"]]
    assert done.returncode == sum(status != "ok" for status in statuses) > 0
    assert statuses[1].startswith("not done after")
    assert "resume: not done after" in done.stdout


def test_an_unknown_phase_is_refused(tmp_path: Path) -> None:
    done = check(tmp_path / "out", "--only", "nothing")
    assert done.returncode == 2 and "no phase nothing" in done.stderr
