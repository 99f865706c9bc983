"""From this layout's adapter shards to one adapter in peft's format (train.peft_format)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from train.mcore.lora import Adapted
from train.mcore.names import qkv_rows
from train.mcore.weights import unshard
from train.peft_format import ROOT


@torch.no_grad()
def gather(adapted: list[Adapted], config: Any) -> dict[str, Tensor]:
    """Every tensor of the adapter by its name in peft's format, on CPU, on every rank."""
    own: dict[str, Tensor] = {}
    for item in adapted:
        a = unshard(item.layer.lora_a, 1) if item.layer.row else item.layer.lora_a
        b = item.layer.lora_b if item.layer.row else unshard(item.layer.lora_b, 0, item.rows)
        fused = len(item.modules) > 1
        parts = [b[rows] for rows in qkv_rows(config)] if fused else [b]
        for module, part in zip(item.modules, parts, strict=True):
            name = f"{ROOT}{item.stem}{module}"
            own[f"{name}.lora_A.weight"] = a.detach().float().cpu().clone()
            own[f"{name}.lora_B.weight"] = part.detach().float().cpu().contiguous().clone()
    stages = parallel_state.get_pipeline_model_parallel_world_size()
    if stages == 1:
        return own
    parts_of: list[Any] = [None] * stages
    dist.all_gather_object(parts_of, own, group=parallel_state.get_pipeline_model_parallel_group())
    return {name: tensor for part in parts_of for name, tensor in part.items()}
