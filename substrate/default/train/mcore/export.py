"""From this layout's adapter shards to one adapter in peft's format (train.peft_format)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from train.mcore.collectives import joined
from train.mcore.lora import Adapted
from train.mcore.names import qkv_rows
from train.mcore.weights import unshard
from train.peft_format import HALVES, expert_name, full_name


@torch.no_grad()
def gather(adapted: list[Adapted], config: Any) -> dict[str, Tensor]:
    """Every tensor of the adapter by its name in peft's format, on CPU, on every rank."""
    own: dict[str, Tensor] = {}
    for item in adapted:
        own |= _routed(item) if item.routed else _whole(item, config)
    stages = parallel_state.get_pipeline_model_parallel_world_size()
    if stages == 1:
        return own
    parts_of: list[Any] = [None] * stages
    dist.all_gather_object(parts_of, own, group=parallel_state.get_pipeline_model_parallel_group())
    return {name: tensor for part in parts_of for name, tensor in part.items()}


def _whole(item: Adapted, config: Any) -> dict[str, Tensor]:
    a = unshard(item.layer.lora_a, 1) if item.layer.row else item.layer.lora_a
    b = item.layer.lora_b if item.layer.row else unshard(item.layer.lora_b, 0, item.rows)
    parts = [b[rows] for rows in qkv_rows(config)] if len(item.modules) > 1 else [b]
    return {
        full_name(item.stem + module, half): _plain(tensor)
        for module, part in zip(item.modules, parts, strict=True)
        for half, tensor in zip(HALVES, (a, part), strict=True)
    }


def _routed(item: Adapted) -> dict[str, Tensor]:
    """A pair for each expert of the expert group."""
    group, (module,) = parallel_state.get_expert_model_parallel_group(), item.modules
    own = item.layer.lora_a, item.layer.lora_b
    return {
        full_name(item.stem + expert_name(module, number), half): _plain(tensor)
        for half, mine in zip(HALVES, own, strict=True)
        for number, tensor in enumerate(joined(mine, group) if group.size() > 1 else mine)
    }


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu().contiguous().clone()
