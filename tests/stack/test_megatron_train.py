"""A run of trainer=megatron: its losses, what it may be divided into, and going on after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("megatron.core", reason="megatron-core is not installed")

import torch
import yaml
from eval.adapter import base_shapes, load_adapter
from train import loop
from train import peft_backend as peft_loop
from train.checkpoint import StateError
from train.mcore import lora, model, weights
from train.mcore.layout import Layout
from train.mcore.pipeline import pieces
from train.mcore.state import SynchronousSave
from train.run import Run

from tests.stack.mcore_support import LORA, Recipe, losses, one_rank, tokens
from tests.stack.mcore_support import run_here as train

pytestmark = pytest.mark.long(40)

__all__ = ["one_rank"]


def changed(recipe: Recipe, **values: Any) -> Recipe:
    """A copy with keys of `train` replaced; nested ones merged."""
    copy: Recipe = yaml.safe_load(yaml.safe_dump(recipe))
    for key, value in values.items():
        if isinstance(value, dict):
            copy["train"][key] |= value
        else:
            copy["train"][key] = value
    return copy


def metrics(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "paths")} for row in rows]


def adapters(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.glob("checkpoints/*/*")}


@pytest.mark.usefixtures("one_rank")
def test_a_run_learns_and_leaves_what_the_peft_trainer_leaves(
    short_recipe: Recipe, train_path: Path, nemotron_base: Path, tmp_path: Path
) -> None:
    result = train(short_recipe, train_path, nemotron_base, tmp_path / "ours")
    run = Run(short_recipe, train_path, nemotron_base, tmp_path / "theirs", seed=7, threads=1)
    theirs = peft_loop.execute(run)
    ours, peft = losses(tmp_path / "ours"), losses(tmp_path / "theirs")
    # Before the first update both are the base on the same rows.
    assert ours[0] == pytest.approx(peft[0], abs=1e-5)
    assert ours[-1] < ours[0] - 0.3 and peft[-1] < peft[0] - 0.3
    assert set(theirs) <= set(result)
    for key in ("steps", "checkpoints", "tokens", "base_sha256", "data_sha256", "recipe"):
        assert result[key] == theirs[key]
    assert [p["lr"] for p in metrics(tmp_path / "ours")] == [
        p["lr"] for p in metrics(tmp_path / "theirs")
    ]
    for name in ("ours", "theirs"):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[0])["paths"] == {
            "scan": "torch",
            "convolution": "torch",
            "experts": "grouped_mm",
        }
        assert "paths" not in json.loads(lines[1])
    shapes = base_shapes(nemotron_base)
    for name in ("ours", "theirs"):
        folder = tmp_path / name / "checkpoints" / "step-000012"
        assert len(load_adapter(folder, shapes).pairs) == 12


@pytest.mark.usefixtures("one_rank")
def test_the_loss_does_not_depend_on_microbatches_or_packing(
    short_recipe: Recipe, train_path: Path, nemotron_base: Path, tmp_path: Path
) -> None:
    """Within 1e-4 over twelve steps: sums are taken in another order."""
    train(short_recipe, train_path, nemotron_base, tmp_path / "whole")
    expected = pytest.approx(losses(tmp_path / "whole"), abs=1e-4)
    for name, recipe, layout in (
        ("micro", short_recipe, Layout(micro_batch=3)),
        ("tokens", short_recipe, Layout(micro_tokens=200)),
        ("selective", short_recipe, Layout(micro_tokens=200, recompute="selective")),
        ("full", short_recipe, Layout(recompute="full")),
        ("packed", changed(short_recipe, packing=True), Layout()),
        ("both", changed(short_recipe, packing=True), Layout(micro_batch=1)),
    ):
        train(recipe, train_path, nemotron_base, tmp_path / name, layout)
        assert losses(tmp_path / name) == expected, name
    tokens = [row["tokens"] for row in metrics(tmp_path / "whole")]
    assert [row["tokens"] for row in metrics(tmp_path / "packed")] == tokens


def test_a_token_budget_makes_few_passes_of_short_rows_and_one_of_each_long_row() -> None:
    lengths = [30, 9, 300, 8, 31, 7, 120]
    found = pieces(lengths, 1, Layout(micro_tokens=128))
    assert found == [([2], 304), ([6], 120), ([4, 0, 1, 3], 32), ([5], 8)]
    two = pieces(lengths, 2, Layout(micro_tokens=128, micro_batch=1))
    assert two == [([2, 6], 304), ([4, 0], 32), ([1, 3], 16), ([5], 8)]
    assert pieces(lengths, 1, Layout()) == [([2, 6, 4, 0, 1, 3, 5], 304)]


@pytest.mark.usefixtures("one_rank")
def test_dropout_draws_the_same_numbers_when_computed_anew(
    short_recipe: Recipe, train_path: Path, nemotron_base: Path, tmp_path: Path
) -> None:
    recipe = changed(short_recipe, lora={"dropout": 0.2}, steps=4)
    for name in ("none", "selective", "full"):
        train(recipe, train_path, nemotron_base, tmp_path / name, Layout(recompute=name))
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "none"), abs=1e-5)


@pytest.mark.usefixtures("one_rank")
def test_what_is_computed_anew_is_not_kept(nemotron_base: Path) -> None:
    """Bytes that autograd keeps from forward to backward, weights not counted."""
    kept = {}
    for name in ("none", "selective", "full"):
        network = model.build(model.read_config(nemotron_base), Layout(recompute=name))
        weights.load(network, model.read_config(nemotron_base), nemotron_base)
        lora.inject(network, model.read_config(nemotron_base), LORA, seed=3)
        own = {p.data_ptr() for p in network.parameters()}
        found: dict[int, int] = {}

        def note(
            tensor: torch.Tensor, own: set[int] = own, found: dict[int, int] = found
        ) -> torch.Tensor:
            if tensor.data_ptr() not in own:
                found[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model.hidden(network.train(), tokens(), None)
        kept[name] = sum(found.values())
    assert kept["selective"] < 0.7 * kept["none"]
    assert kept["full"] < 0.2 * kept["none"]


def test_the_peft_trainer_refuses_to_pack_a_recurrent_model(
    short_recipe: Recipe, train_path: Path, nemotron_base: Path, tmp_path: Path
) -> None:
    run = Run(changed(short_recipe, packing=True), train_path, nemotron_base, tmp_path, 7, 1)
    with pytest.raises(ValueError, match=r"train\.packing: transformers' nemotron_h carries state"):
        peft_loop.execute(run)


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("shape", ["cosine", "linear", "constant", "wsd"])
def test_schedules_clipping_and_decay_are_those_of_the_recipe(
    shape: str, short_recipe: Recipe, train_path: Path, dense_base: Path, tmp_path: Path
) -> None:
    from train.schedule import factor

    recipe = changed(
        short_recipe,
        steps=6,
        schedule={"shape": shape, "warmup": 0.3, "final": 0.1},
        optimizer={"clip": 0.01, "weight_decay": 0.1},
    )
    train(recipe, train_path, dense_base, tmp_path)
    peak = recipe["train"]["learning_rate"]
    assert [row["lr"] for row in metrics(tmp_path)] == [
        peak * factor(step, 6, shape, 0.3, 0.1) for step in range(6)
    ]
    assert all(row["grad_norm"] > 0.01 for row in metrics(tmp_path))  # as it was before clipping


@pytest.mark.usefixtures("one_rank")
def test_clipping_bounds_the_gradient(
    short_recipe: Recipe,
    train_path: Path,
    dense_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    step = torch.optim.AdamW.step

    def recording(self: Any, *rest: Any) -> Any:
        squares = sum(float(p.grad.pow(2).sum()) for g in self.param_groups for p in g["params"])
        seen.append(squares**0.5)
        return step(self, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", recording)
    train(
        changed(short_recipe, steps=3, optimizer={"clip": 0.01}), train_path, dense_base, tmp_path
    )
    assert seen == pytest.approx([0.01] * 3, rel=1e-3)


class Killed(BaseException):
    """Stands for a kill inside the process: nothing catches it."""


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize(("after", "resumed"), [(1, []), (5, [4]), (11, [9])])
def test_interrupted_after_any_step_it_gives_the_same_bytes(
    after: int,
    resumed: list[int],
    short_recipe: Recipe,
    train_path: Path,
    nemotron_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """States are written every third step here and at checkpoints, which are at 4, 8 and 12."""
    monkeypatch.setattr(loop, "STATE_STEPS", 3)
    recipe = changed(short_recipe, packing=True, lora={"dropout": 0.2})
    train(recipe, train_path, nemotron_base, tmp_path / "whole")
    step, left = loop.Trainer._step, [after]

    def stopping(self: Any) -> dict[str, Any]:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return step(self)

    monkeypatch.setattr(loop.Trainer, "_step", stopping)
    with pytest.raises(Killed):
        train(recipe, train_path, nemotron_base, tmp_path / "cut")
    (tmp_path / "cut" / "state" / "step-000099").mkdir(parents=True)  # half written, not named
    monkeypatch.setattr(loop.Trainer, "_step", step)
    result = train(recipe, train_path, nemotron_base, tmp_path / "cut")
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert adapters(tmp_path / "cut") == adapters(tmp_path / "whole")
    assert result["resumed_from"] == resumed
    again = train(recipe, train_path, nemotron_base, tmp_path / "cut")
    assert again["resumed_from"] == result["resumed_from"]  # finished: found, not run


@pytest.mark.usefixtures("one_rank")
def test_a_state_of_another_run_is_refused(
    short_recipe: Recipe, train_path: Path, dense_base: Path, tmp_path: Path
) -> None:
    train(changed(short_recipe, steps=3), train_path, dense_base, tmp_path)
    (tmp_path / "result.json").unlink()
    with pytest.raises(StateError, match="made with another recipe"):
        train(changed(short_recipe, steps=4), train_path, dense_base, tmp_path)


@pytest.mark.usefixtures("one_rank")
def test_the_state_is_megatrons_own_format(
    short_recipe: Recipe, train_path: Path, dense_base: Path, tmp_path: Path
) -> None:
    """Pitfall: with LoRA, parallel or asynchronous saving loses adapters; ours is neither."""
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.strategies.base import AsyncSaveShardedStrategy
    from megatron.core.dist_checkpointing.strategies.fully_parallel import (
        FullyParallelSaveStrategyWrapper,
    )

    train(changed(short_recipe, steps=3), train_path, dense_base, tmp_path)
    folder = tmp_path / "state" / "step-000003"
    assert json.loads((folder / "metadata.json").read_text())["sharded_backend"] == "torch_dist"
    plain = dist_checkpointing.load_plain_tensors(str(folder))  # by megatron's stock loader
    key = "decoder.layers.0.mixer.in_proj.lora_b"
    config = model.read_config(dense_base)
    rows = [plain[f"{key}.{part}"].shape[0] for part in range(5)]
    assert rows == [128, 128, 32, 32, 8] == model_rows(config)
    assert f"optimizer.exp_avg.{key}.0" in plain
    strategy = SynchronousSave()
    assert not isinstance(strategy, FullyParallelSaveStrategyWrapper)
    assert "save" in vars(type(strategy)) and "async_save" not in vars(type(strategy))
    assert AsyncSaveShardedStrategy.save is not type(strategy).save


def model_rows(config: Any) -> list[int]:
    from train.mcore.weights import mamba_rows

    return mamba_rows(config)


@pytest.mark.usefixtures("one_rank")
def test_a_run_that_diverges_says_so(
    short_recipe: Recipe, train_path: Path, dense_base: Path, tmp_path: Path
) -> None:
    recipe = changed(short_recipe, learning_rate=1e20, optimizer={"clip": 0}, steps=8)
    recipe["train"]["schedule"] |= {"shape": "constant", "warmup": 0.0}
    result = train(recipe, train_path, dense_base, tmp_path)
    assert result["status"] == "diverged" and result["final_loss"] is None
    last = metrics(tmp_path)[-1]
    assert last["loss"] is None or last["grad_norm"] is None
