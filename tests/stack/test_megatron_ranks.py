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

pytest.importorskip("megatron.core", reason="megatron-core is not installed")

import torch
import yaml
from eval.adapter import base_shapes, load_adapter
from eval.hf import HfDecoder, open_model
from peft import PeftModel

from tests.conftest import until
from tests.stack.mcore_support import (
    LORA,
    SUBSTRATE,
    WIDE,
    Recipe,
    command,
    environment,
    losses,
    one_rank,
    run_here,
    start_ranks,
    tokens,
)

pytestmark = pytest.mark.long(40)

__all__ = ["one_rank"]

CLOSE = 1e-5  # of logits
SAME = 1e-4  # of losses over twelve steps: sums are taken in another order
Started = list["subprocess.Popen[str]"]
TRAINED = {
    "tensor": ("dense_base", {"tensor": 2}),
    "data": ("dense_base", {}),  # two halves of each batch
    "pipeline": ("dense_base", {"pipeline": 2, "micro_batch": 3}),
    "expert": ("nemotron_base", {"expert": 2, "micro_batch": 3}),
    # tensor > 1 with experts: activations between layers are split along the sequence
    "tensor-moe": ("nemotron_base", {"tensor": 2}),
    "tensor-expert": ("nemotron_base", {"tensor": 2, "expert": 2, "micro_batch": 5}),
    # adapters on everything, in groups of different ranks
    "wide-expert": ("nemotron_base", {"expert": 2, "micro_tokens": 256}),
    "wide-tensor": ("nemotron_base", {"tensor": 2}),
    "wide-pipeline": ("nemotron_base", {"pipeline": 2, "micro_batch": 4}),
}
ANSWERED = {
    "tensor-logits": ("dense_base", {"tensor": 2}),
    "expert-logits": ("nemotron_base", {"expert": 2}),
    "tensor-moe-logits": ("nemotron_base", {"tensor": 2}),
    "tensor-expert-logits": ("nemotron_base", {"tensor": 2, "expert": 2}),
    "wide-expert-logits": ("nemotron_base", {"expert": 2}),
    "wide-tensor-expert-logits": ("nemotron_base", {"tensor": 2, "expert": 2}),
}


@pytest.fixture
def started() -> Iterator[Started]:
    """Processes that do not outlive the test."""
    processes: Started = []
    yield processes
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wide(recipe: Recipe) -> Recipe:
    """The recipe with adapters on everything."""
    return recipe | {"train": recipe["train"] | {"lora": WIDE}}


@pytest.fixture(scope="module")
def recipe_path(short_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(short_recipe))
    return path


@pytest.fixture(scope="module")
def alone(
    one_rank: torch.device,
    short_recipe: Recipe,
    train_path: Path,
    nemotron_base: Path,
    dense_base: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[float]]:
    """Losses of one process, by base."""
    found = {}
    for name, base, recipe in (
        ("nemotron_base", nemotron_base, short_recipe),
        ("dense_base", dense_base, short_recipe),
        ("wide", nemotron_base, wide(short_recipe)),
    ):
        out = tmp_path_factory.mktemp(name)
        run_here(recipe, train_path, base, out)
        found[name] = losses(out)
        assert found[name][-1] < found[name][0] - 0.3
    return found


@pytest.fixture(scope="module")
def pair(
    short_recipe: Recipe,
    train_path: Path,
    nemotron_base: Path,
    dense_base: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What two ranks made of all of TRAINED and ANSWERED, a folder each."""
    folder = tmp_path_factory.mktemp("pair")
    bases = {"nemotron_base": nemotron_base, "dense_base": dense_base}
    plan: list[dict[str, Any]] = []
    for name, (which, sizes) in (TRAINED | ANSWERED).items():
        job = {"base": str(bases[which]), "out": str(folder / name), "layout": sizes}
        recipe = wide(short_recipe) if "wide" in name else short_recipe
        training = {"recipe": recipe, "data": str(train_path)}
        answering = {"lora": WIDE if "wide" in name else LORA}
        plan.append(job | (training if name in TRAINED else answering))
    (folder / "plan.json").write_text(json.dumps(plan))
    program = str(Path(__file__).with_name("mcore_ranks.py"))
    process = start_ranks(2, program, str(folder / "plan.json"))
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    return folder


@pytest.mark.parametrize("name", TRAINED)
def test_two_processes_learn_as_one(name: str, pair: Path, alone: dict[str, list[float]]) -> None:
    which, sizes = TRAINED[name]
    expected = alone["wide" if "wide" in name else which]
    assert losses(pair / name) == pytest.approx(expected, abs=SAME)
    result = json.loads((pair / name / "result.json").read_text())
    assert result["layout"]["processes"] == 2 and sizes.items() <= result["layout"].items()
    assert sorted(path.name for path in (pair / name / "checkpoints").iterdir()) == [
        "step-000004",
        "step-000008",
        "step-000012",
    ]


@pytest.mark.parametrize("name", ANSWERED)
def test_a_divided_model_and_its_adapter_are_the_whole_ones(
    name: str, pair: Path, request: pytest.FixtureRequest
) -> None:
    """Pitfall: rows of in_proj on a rank are [z, x, B, C, dt]; ranks' rows put one after the
    other are another matrix, which every loader takes without a word."""
    base: Path = request.getfixturevalue(ANSWERED[name][0])
    before, after = torch.load(pair / name / "logits.pt")
    ids, logits = tokens(), {}
    for folder in ("adapter", "plain"):
        bare = open_model(base, torch.float32).eval()
        with torch.no_grad():
            whole = bare(ids).logits
        decoder = HfDecoder(base, "cpu")
        adapter = load_adapter(pair / name / folder, base_shapes(base))
        with decoder.merged(adapter), torch.no_grad():
            logits[folder] = decoder.model(ids).logits
        if "wide" not in name:  # peft loads neither experts nor out_proj
            with torch.no_grad():
                adapted = PeftModel.from_pretrained(bare, pair / name / folder).eval()
                assert (adapted(ids).logits - logits[folder]).abs().max() < CLOSE
    assert (before - whole).abs().max() < CLOSE
    assert (after - before).abs().max() > 0.1
    assert (after - logits["adapter"]).abs().max() < CLOSE
    if "tensor" in name:
        assert (after - logits["plain"]).abs().max() > 0.1


def test_pipeline_times_tensor(
    alone: dict[str, list[float]],
    recipe_path: Path,
    train_path: Path,
    dense_base: Path,
    tmp_path: Path,
    started: Started,
) -> None:
    layout = ["--tensor", "2", "--pipeline", "2", "--micro-batch", "4"]
    started.append(start_ranks(4, *command(recipe_path, train_path, dense_base, tmp_path, *layout)))
    out, _ = started[0].communicate(timeout=240)
    assert started[0].returncode == 0, out
    assert losses(tmp_path) == pytest.approx(alone["dense_base"], abs=SAME)


@pytest.fixture(scope="module")
def long_recipe(short_recipe: Recipe) -> Recipe:
    """Ten states in 60 steps: the first is there long before the end."""
    recipe: Recipe = yaml.safe_load(yaml.safe_dump(short_recipe))
    recipe["train"] |= {"steps": 60, "checkpoints": 10}
    return recipe


@pytest.fixture(scope="module")
def long_path(long_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(long_recipe))
    return path


@pytest.mark.usefixtures("one_rank")
def test_killed_on_two_ranks_it_goes_on_on_one(
    long_recipe: Recipe,
    long_path: Path,
    train_path: Path,
    dense_base: Path,
    tmp_path: Path,
    started: Started,
) -> None:
    """kill -9 of the starter, with which its ranks die; another layout reads the state. The losses
    of 60 steps in two orders of summation drift apart a little more than those of 12."""
    run_here(long_recipe, train_path, dense_base, tmp_path / "whole")
    out = tmp_path / "cut"
    argv = command(long_path, train_path, dense_base, out, "--tensor", "2")
    started.append(start_ranks(2, *argv))
    until((out / "state" / "latest.json").exists, 120)
    started[0].kill()
    started[0].communicate()  # its ranks hold the pipe: it ends when they have
    assert not (out / "result.json").exists()
    result = run_here(long_recipe, train_path, dense_base, out)
    assert losses(out) == pytest.approx(losses(tmp_path / "whole"), abs=10 * SAME)
    assert len(result["resumed_from"]) == 1


@pytest.mark.usefixtures("one_rank")
def test_killed_it_gives_the_losses_of_an_undisturbed_run(
    long_recipe: Recipe,
    long_path: Path,
    train_path: Path,
    nemotron_base: Path,
    tmp_path: Path,
    started: Started,
) -> None:
    """kill -9 as soon as there is a state; the same layout gives the same numbers."""
    run_here(long_recipe, train_path, nemotron_base, tmp_path / "whole")
    out = tmp_path / "cut"
    argv = [sys.executable, *command(long_path, train_path, nemotron_base, out)]
    started.append(
        subprocess.Popen(
            argv,
            cwd=SUBSTRATE,
            env=environment(),
            text=True,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
    )
    until((out / "state" / "latest.json").exists, 120)
    started[0].kill()
    started[0].wait()
    assert not (out / "result.json").exists()
    result = run_here(long_recipe, train_path, nemotron_base, out)
    assert len(result["resumed_from"]) == 1
    assert losses(out) == losses(tmp_path / "whole")
