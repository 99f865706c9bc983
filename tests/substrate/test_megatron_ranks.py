"""trainer=megatron over several processes: the same model, losses and adapter as on one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import until
from tests.substrate.mcore_support import SUBSTRATE, environment, tokens, torchrun

import torch
from eval.hf import open_model
from peft import PeftModel

CLOSE = 1e-5  # of logits
SAME = 1e-4  # of losses over twelve steps: sums are taken in another order
Started = list["subprocess.Popen[str]"]


@pytest.fixture
def started() -> Iterator[Started]:
    """Processes that do not outlive the test."""
    processes: Started = []
    yield processes
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="module")
def recipe_path(short_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(short_recipe))
    return path


def words(recipe: Path, data: Path, base: Path, out: Path, *more: str) -> list[str]:
    return ["-m", "train.megatron", "--recipe", str(recipe), "--data", str(data), "--base",
            str(base), "--seed", "7", "--out", str(out), *more]


def finished(process: "subprocess.Popen[str]") -> None:
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out


def losses(out: Path) -> list[float]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="module")
def alone(
    recipe_path: Path, train_path: Path, nemotron_base: Path, dense_base: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[float]]:
    """Losses of one process, by base."""
    found = {}
    for name, base in (("nemotron_base", nemotron_base), ("dense_base", dense_base)):
        out = tmp_path_factory.mktemp(name)
        argv = [sys.executable, *words(recipe_path, train_path, base, out)]
        subprocess.run(argv, cwd=SUBSTRATE, env=environment(), check=True, capture_output=True)
        found[name] = losses(out)
        assert found[name][-1] < found[name][0] - 0.3
    return found


@pytest.mark.parametrize(
    ("which", "layout"),
    [
        ("dense_base", ["--tensor", "2"]),
        ("dense_base", []),  # two halves of each batch
        ("dense_base", ["--pipeline", "2", "--micro-batch", "3"]),
        ("nemotron_base", ["--expert", "2", "--micro-batch", "3"]),
    ],
    ids=["tensor", "data", "pipeline", "expert"],
)
def test_two_processes_learn_as_one(
    which: str, layout: list[str], alone: dict[str, list[float]], recipe_path: Path,
    train_path: Path, request: pytest.FixtureRequest, tmp_path: Path, started: Started,
) -> None:
    base: Path = request.getfixturevalue(which)
    started.append(torchrun(2, *words(recipe_path, train_path, base, tmp_path, *layout)))
    finished(started[0])
    assert losses(tmp_path) == pytest.approx(alone[which], abs=SAME)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["layout"]["processes"] == 2
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step-000004", "step-000008", "step-000012"]


def test_pipeline_times_tensor_and_data(
    alone: dict[str, list[float]], recipe_path: Path, train_path: Path, dense_base: Path,
    tmp_path: Path, started: Started,
) -> None:
    layout = ["--tensor", "2", "--pipeline", "2", "--micro-batch", "4"]
    started.append(torchrun(4, *words(recipe_path, train_path, dense_base, tmp_path, *layout)))
    finished(started[0])
    assert losses(tmp_path) == pytest.approx(alone["dense_base"], abs=SAME)


@pytest.mark.parametrize(
    ("which", "layout"),
    [("dense_base", ["--tensor", "2"]), ("nemotron_base", ["--expert", "2"])],
    ids=["tensor", "expert"],
)
def test_a_divided_model_and_its_adapter_are_the_whole_ones(
    which: str, layout: list[str], request: pytest.FixtureRequest, tmp_path: Path,
    started: Started,
) -> None:
    """Pitfall: rows of in_proj on a rank are [z, x, B, C, dt]; ranks' rows put one after the
    other are another matrix, which every loader takes without a word."""
    base: Path = request.getfixturevalue(which)
    program = str(Path(__file__).with_name("mcore_ranks.py"))
    started.append(torchrun(2, program, str(base), str(tmp_path), *layout))
    finished(started[0])
    before, after = torch.load(tmp_path / "logits.pt")
    ids, logits = tokens(), {}
    for name in ("adapter", "plain"):
        bare = open_model(base, torch.float32).eval()
        with torch.no_grad():
            whole = bare(ids).logits
            logits[name] = PeftModel.from_pretrained(bare, tmp_path / name).eval()(ids).logits
    assert (before - whole).abs().max() < CLOSE
    assert (after - before).abs().max() > 0.1
    assert (after - logits["adapter"]).abs().max() < CLOSE
    if which == "dense_base":
        assert (after - logits["plain"]).abs().max() > 0.1


def test_killed_on_two_ranks_it_goes_on_on_one(
    alone: dict[str, list[float]], recipe_path: Path, train_path: Path, dense_base: Path,
    tmp_path: Path, started: Started,
) -> None:
    """kill -9 of every process amid the run; the state is read by another layout."""
    argv = words(recipe_path, train_path, dense_base, tmp_path)
    started.append(torchrun(2, *argv, "--tensor", "2"))
    latest = tmp_path / "state" / "latest.json"
    until(latest.exists, 120)
    os.killpg(started[0].pid, signal.SIGKILL)
    started[0].wait()
    subprocess.run(["pkill", "-9", "-f", str(tmp_path)], check=False)
    done = subprocess.run([sys.executable, *argv], cwd=SUBSTRATE, env=environment(), text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path) == pytest.approx(alone["dense_base"], abs=SAME)
    assert json.loads((tmp_path / "result.json").read_text())["resumed_from"]


def test_killed_it_gives_the_losses_of_an_undisturbed_run(
    alone: dict[str, list[float]], recipe_path: Path, train_path: Path, nemotron_base: Path,
    tmp_path: Path, started: Started,
) -> None:
    """kill -9 as soon as there is a state; the same layout gives the same numbers."""
    argv = [sys.executable, *words(recipe_path, train_path, nemotron_base, tmp_path)]
    started.append(subprocess.Popen(argv, cwd=SUBSTRATE, env=environment(), text=True,
                                    stdout=subprocess.PIPE, start_new_session=True))
    until((tmp_path / "state" / "latest.json").exists, 120)
    started[0].kill()
    started[0].wait()
    assert not (tmp_path / "result.json").exists()
    done = subprocess.run(argv, cwd=SUBSTRATE, env=environment(), text=True, capture_output=True)
    assert "resumed after step" in done.stdout, done.stderr
    assert losses(tmp_path) == alone["nemotron_base"]
