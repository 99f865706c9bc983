"""Training: killed at any instant and run again, it ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from eval.adapter import FILES
from peft import PeftModel
from safetensors.torch import load_file
from train import loop, sft
from train.checkpoint import StateError
from train.peft_backend import execute
from train.run import Run, checkpoint_steps
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.long(25)

Recipe = dict[str, Any]


def run_of(recipe: Recipe, data: Path, base: Path, out: Path, seed: int = 7) -> Run:
    return Run(recipe=recipe, data=data, base=base, out=out, seed=seed, threads=1)


def bytes_of(out: Path) -> dict[str, bytes]:
    """Every adapter file of a run."""
    return {str(p.relative_to(out)): p.read_bytes() for p in out.glob("checkpoints/*/*")}


def metrics_of(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "paths")} for row in rows]


@pytest.fixture
def short(small_recipe: Recipe) -> Recipe:
    """Twelve steps with dropout, so that the random state matters too."""
    recipe: Recipe = yaml.safe_load(yaml.safe_dump(small_recipe))
    recipe["train"] |= {"steps": 12, "batch_size": 8, "checkpoints": 3}
    recipe["train"]["lora"]["dropout"] = 0.2
    return recipe


class Killed(BaseException):
    """Stands for a kill inside the process: nothing catches it."""


@pytest.mark.parametrize("after", [1, 4, 5, 8, 11])
def test_interrupted_after_any_step_it_gives_the_same_bytes(
    after: int,
    short: Recipe,
    train_path: Path,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "STATE_STEPS", 3)
    whole = execute(run_of(short, train_path, tiny_base, tmp_path / "whole"))
    step = loop.Trainer._step
    left = [after]

    def stopping(self: Any) -> dict[str, Any]:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return step(self)

    run = run_of(short, train_path, tiny_base, tmp_path / "cut")
    monkeypatch.setattr(loop.Trainer, "_step", stopping)
    with pytest.raises(Killed):
        execute(run)
    # What a kill leaves half written must not matter.
    (run.out / "checkpoints").mkdir(exist_ok=True)
    (run.out / "checkpoints" / ".step-000012.999").mkdir()
    with (run.out / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 99, "lo')
    monkeypatch.setattr(loop.Trainer, "_step", step)
    cut = execute(run)
    states = [s for s in (3, 4, 6, 8, 9, 12) if s <= after]
    assert cut["resumed_from"] == (states[-1:] if states else [])
    assert bytes_of(run.out) == bytes_of(tmp_path / "whole")
    assert len(bytes_of(run.out)) == 6
    assert metrics_of(run.out) == metrics_of(tmp_path / "whole")
    assert [row["step"] for row in metrics_of(run.out)] == list(range(1, 13))
    for key in ("final_loss", "tokens", "checkpoints"):
        assert cut[key] == whole[key]


def test_killed_processes_end_as_an_undisturbed_one(
    trained: Path, small_recipe_path: Path, train_path: Path, tiny_base: Path, tmp_path: Path
) -> None:
    """SIGKILL, twice, of the command itself; `trained` is the undisturbed run."""
    argv = [sys.executable, "-m", "train.sft", "--recipe", str(small_recipe_path)]
    argv += ["--data", str(train_path), "--base", str(tiny_base), "--seed", "7"]
    argv += ["--out", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    for lines in (31, 47):
        process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL)
        wait_for_lines(tmp_path / "metrics.jsonl", lines, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    subprocess.run(argv, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert bytes_of(tmp_path) == bytes_of(trained)
    assert metrics_of(tmp_path) == metrics_of(trained)
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result["resumed_from"]) == 2


def wait_for_lines(path: Path, lines: int, process: subprocess.Popen[bytes]) -> None:
    """Until a running process has written so many lines."""
    deadline = time.monotonic() + 120
    while not path.is_file() or path.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_finished_run_is_not_run_again(
    trained: Path,
    small_recipe: Recipe,
    train_path: Path,
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(loop.Trainer, "train")
    result = execute(run_of(small_recipe, train_path, tiny_base, trained))
    assert result["status"] == "ok"
    assert [c["step"] for c in result["checkpoints"]] == [30, 60]
    with pytest.raises(StateError, match="another seed"):
        execute(run_of(small_recipe, train_path, tiny_base, trained, seed=8))


def test_another_runs_state_is_not_taken_up(
    short: Recipe, train_path: Path, tiny_base: Path, tmp_path: Path
) -> None:
    run = run_of(short, train_path, tiny_base, tmp_path)
    execute(run)
    (tmp_path / "result.json").unlink()
    other = run_of(
        short | {"train": short["train"] | {"steps": 13}}, train_path, tiny_base, tmp_path
    )
    with pytest.raises(StateError, match="another recipe"):
        execute(other)


def test_adapters_load_in_peft_with_the_values_saved(trained: Path, tiny_base: Path) -> None:
    folder = trained / "checkpoints" / "step-000060"
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    loaded = PeftModel.from_pretrained(base, folder).state_dict()
    saved = load_file(folder / "adapter_model.safetensors")
    for name, tensor in saved.items():
        assert torch.equal(loaded[name.replace(".weight", ".default.weight")], tensor)


def test_seeds_differ_and_loss_falls(
    trained: Path, short: Recipe, train_path: Path, tiny_base: Path, tmp_path: Path
) -> None:
    outs = [tmp_path / str(seed) for seed in (1, 2)]
    for seed, out in enumerate(outs, 1):
        execute(run_of(short, train_path, tiny_base, out, seed))
    assert bytes_of(outs[0]) != bytes_of(outs[1])
    losses = [row["loss"] for row in metrics_of(trained)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_divergence_is_a_result_and_exit_status_3(
    short: Recipe,
    train_path: Path,
    tiny_base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    short["train"] |= {"learning_rate": 10.0, "steps": 60}
    short["train"]["optimizer"] |= {"clip": 0.0, "weight_decay": 10.0}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(short))
    argv = ["--recipe", str(recipe), "--data", str(train_path), "--base", str(tiny_base)]
    argv += ["--seed", "7", "--out", str(tmp_path / "out")]
    for _ in range(2):  # the second time from the record
        assert sft.main(argv) == 3
        error = capsys.readouterr().err
        assert error.startswith("train.sft: diverged at step")
        assert error.count("\n") == 1
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["status"] == "diverged"
    assert result["final_loss"] is None
    assert 0 < result["steps"] < 60


def test_mistakes_are_one_line(
    small_recipe: Recipe,
    train_path: Path,
    tiny_base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = tmp_path / "recipe.yaml"

    def fails(changed: Recipe, data: Path, base: Path) -> str:
        recipe.write_text(yaml.safe_dump(changed))
        argv = ["--recipe", str(recipe), "--data", str(data), "--base", str(base)]
        assert sft.main([*argv, "--seed", "1", "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "train.stepz" in fails(
        small_recipe | {"train": small_recipe["train"] | {"stepz": 1}}, train_path, tiny_base
    )
    assert "nowhere" in fails(small_recipe, tmp_path / "nowhere", tiny_base)
    assert "safetensors" in fails(small_recipe, train_path, tmp_path)


def test_checkpoints_are_even_and_end_at_the_end() -> None:
    assert checkpoint_steps(200, 4) == [50, 100, 150, 200]
    assert checkpoint_steps(10, 4) == [2, 5, 8, 10]
    assert checkpoint_steps(2, 4) == [1, 2]
