"""Phase 4: routed experts multiplied at once, against megatron-core's own loop."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.moe.experts import SequentialMLP
from train.mcore import grouped, model
from train.mcore.layout import Layout

from tests.bench.gpu import models
from tests.bench.gpu.phase import Phase

LIMIT = 2e-2


def run(here: Phase) -> None:
    """The same rows through both, forward and backward, bf16."""
    with models.alone():
        config = model.mcore_config(model.read_config(models.wide(here)), Layout(precision="bf16"))
        count = config.num_moe_experts
        groups = ProcessGroupCollection.use_mpu_process_groups()
        linears = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
        theirs: Any = SequentialMLP(count, config, linears, groups).to(here.device)
        ours: Any = grouped.GroupedExperts(count, config, groups).to(here.device)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for leaf in ("linear_fc1", "linear_fc2"):
                weight = getattr(ours, leaf).weight
                drawn = torch.randn(weight.shape[1:], generator=generator) * weight.shape[2] ** -0.5
                weight.copy_(drawn[None])
                weight.mul_(torch.linspace(0.5, 1.5, count, device=weight.device)[:, None, None])
                for expert, own in zip(theirs.local_experts, weight, strict=True):
                    getattr(expert, leaf).weight.copy_(own)
        theirs.requires_grad_(False)
        widths = config.hidden_size, config.moe_ffn_hidden_size
        way = grouped.method(here.device.type, torch.bfloat16, *widths)
        here.hold("experts are multiplied at once", way == "grouped_mm", way)
        each = torch.randint(0, 2 * (8 if here.dry else 192), (count,), generator=generator)
        found, took = {}, {}
        for name, experts in (("grouped_mm", ours), ("the loop", theirs)):
            found[name] = _through(here, experts, each)
            took[name] = models.seconds(here, lambda e=experts: _through(here, e, each))
            what = f"{count} experts, {int(each.sum())} rows, {name}"
            here.figure(what=what, layer_ms=1000 * took[name])
        for what, a, b in zip(("output", "gradient"), *found.values(), strict=True):
            here.below(f"{what}, at once and by the loop, relative", models.relative(a, b), LIMIT)


def _through(here: Phase, experts: Any, each: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    total = int(each.sum())
    rows = torch.randn(total, experts.config.hidden_size, generator=generator)
    rows = rows.to(here.device, torch.bfloat16).requires_grad_()
    chances = torch.rand(total, generator=generator).to(here.device)
    out, _ = experts(rows, each.to(here.device), chances)
    out.backward(torch.ones_like(out))
    assert rows.grad is not None
    return out.detach(), rows.grad
