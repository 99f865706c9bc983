"""Mamba's in_proj adapters from all ranks, their rows put together component by component."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.utils import unwrap_model
from torch import Tensor

from train.mcore.names import join, mamba_rows


@torch.no_grad()
def in_proj(model: Sequence[Any], config: Any) -> dict[str, Tensor]:
    """B of every adapted in_proj by module, `layers.4.mixer.in_proj`, on CPU, on every rank.

    Collective. Each rank's rows are [z, x, B, C, dt] of its own heads.

    Args:
        model: this rank's chunks, with Megatron-Bridge's adapters (`.adapter.linear_out`).
        config: of the base.
    """
    world = parallel_state.get_tensor_model_parallel_world_size()
    own: dict[str, Tensor] = {}
    for chunk in model:
        for block in unwrap_model(chunk).decoder.layers:
            layer = getattr(getattr(block, "mixer", None), "in_proj", None)
            adapter = getattr(layer, "adapter", None)
            if adapter is None:
                continue
            rows = adapter.linear_out.weight.detach().contiguous()
            ranks = [torch.empty_like(rows) for _ in range(world)] if world > 1 else [rows]
            if world > 1:
                dist.all_gather(ranks, rows, group=parallel_state.get_tensor_model_parallel_group())
            whole = join(ranks, 0, mamba_rows(config)).float().cpu()
            own[f"layers.{block.layer_number - 1}.mixer.in_proj"] = whole
    stages = parallel_state.get_pipeline_model_parallel_world_size()
    if stages == 1:
        return own
    parts: list[Any] = [None] * stages
    dist.all_gather_object(parts, own, group=parallel_state.get_pipeline_model_parallel_group())
    return {module: tensor for part in parts for module, tensor in part.items()}
