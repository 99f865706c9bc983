"""Routed experts of trainer=megatron: multiplied at once, equal to megatron-core's own loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("megatron.core", reason="megatron-core is not installed")

import torch
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.moe.experts import SequentialMLP
from torch import Tensor
from train.mcore import grouped, model
from train.mcore.grouped import GroupedExperts, Groups, method, multiply
from train.mcore.layout import Layout

from tests.stack.mcore_support import one_rank

__all__ = ["one_rank"]

pytestmark = pytest.mark.usefixtures("one_rank")
COUNTS = [5, 0, 17, 2]  # rows of each expert; one gets none


def pair(base: Path, precision: str) -> tuple[GroupedExperts, SequentialMLP]:
    """Ours and megatron-core's with the same random weights."""
    config = model.mcore_config(model.read_config(base), Layout(precision=precision))
    groups = ProcessGroupCollection.use_mpu_process_groups()
    linears = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    theirs = SequentialMLP(4, config, linears, groups)
    ours = GroupedExperts(4, config, groups)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for leaf in ("linear_fc1", "linear_fc2"):
            weight = getattr(ours, leaf).weight
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
            for expert, own in zip(theirs.local_experts, weight, strict=True):
                getattr(expert, leaf).weight.copy_(own)
    return ours, theirs.requires_grad_(False)


def passed(experts: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and gradients of rows and probabilities, for fixed random inputs."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(sum(COUNTS), 64, generator=generator).to(dtype).requires_grad_()
    chances = torch.rand(sum(COUNTS), generator=generator).requires_grad_()
    out, _ = experts(rows, torch.tensor(COUNTS), chances)
    out.backward(torch.randn(out.shape, generator=generator).to(dtype))
    assert rows.grad is not None and chances.grad is not None
    return out.detach(), rows.grad, chances.grad


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("way", ["grouped_mm", "sequential"])
def test_outputs_and_gradients_are_those_of_the_loop(
    precision: str, way: str, nemotron_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair(nemotron_base, precision)
    dtype = Layout(precision=precision).dtype
    assert method("cpu", dtype, 64, 32) == "grouped_mm"
    if way == "sequential":
        monkeypatch.setattr(grouped, "_takes", lambda *_: False)
    for found, expected in zip(passed(ours, dtype), passed(theirs, dtype), strict=True):
        assert found.abs().max() > 0.1
        assert torch.equal(found, expected)
    assert all(p.grad is None and not p.requires_grad for p in ours.parameters())


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_whoever_asks_first_gets_the_same_answer(off: Any) -> None:
    grouped._takes.cache_clear()
    with off():
        assert method("cpu", torch.bfloat16, 64, 32) == "grouped_mm"


def test_the_loop_is_kept_for_what_torch_cannot_multiply_at_once() -> None:
    assert method("cpu", torch.float64, 64, 32) == "sequential"
    assert method("cpu", torch.float32, 64, 6) == "sequential"  # 24 bytes
    rows, weight = torch.randn(24, 64, dtype=torch.float64), torch.randn(4, 6, 64).double()
    found = multiply(rows, weight, Groups.of(torch.tensor(COUNTS), rows.device))
    parts = [part @ own.T for part, own in zip(rows.split(COUNTS), weight, strict=True)]
    assert torch.allclose(found, torch.cat(parts))


def test_a_model_has_no_loop(nemotron_base: Path) -> None:
    assert parallel_state.get_expert_model_parallel_world_size() == 1
    network = model.build(model.read_config(nemotron_base), Layout())
    found = [m for m in network.modules() if isinstance(m, GroupedExperts)]
    assert len(found) == 2 and not any(isinstance(m, SequentialMLP) for m in network.modules())
