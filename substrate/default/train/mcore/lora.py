"""LoRA around megatron-core's parallel linear layers.

A column-parallel layer's A is whole on each rank and its B sharded by rows; a row-parallel layer's
A is sharded by columns and its B whole. The adapter is fp32 whatever the base is. Routed experts
carry none: transformers holds them as fused 3-D parameters and would drop such an adapter silently.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.models.mamba import MambaModel
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from torch import Tensor, nn

from train.mcore.collectives import gather, scatter_sum
from train.mcore.names import HF_NAMES, mamba_rows, targets
from train.mcore.weights import shard


class LoRALinear(nn.Module):
    """A frozen parallel linear layer plus a trained low-rank branch.

    Called as the layer is: returns (output, bias to add later).
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        layer: Any = base
        self.base, self.scale, self.dropout = base, alpha / rank, dropout
        self.row = isinstance(base, RowParallelLinear)
        self.sequence: bool = layer.sequence_parallel
        self.group = layer.tp_group
        out, into = layer.weight.shape
        self.lora_a = nn.Parameter(torch.zeros(rank, into))
        self.lora_b = nn.Parameter(torch.zeros(out, rank))

    @property
    def sharded(self) -> str:
        """Which half differs between tensor-parallel ranks."""
        return "lora_a" if self.row else "lora_b"

    def forward(self, x: Tensor, *rest: Any, **more: Any) -> tuple[Tensor, Tensor | None]:
        """x: (length, rows, features), as the layer takes it."""
        out, bias = self.base(x, *rest, **more)
        low = F.linear(F.dropout(x, self.dropout, self.training), self.lora_a.to(x.dtype))
        if self.row:
            low = (scatter_sum(low, self.group) if self.sequence
                   else reduce_from_tensor_model_parallel_region(low))
        else:
            low = (gather(low, self.group) if self.sequence
                   else copy_to_tensor_model_parallel_region(low))
        return out + F.linear(low, self.lora_b.to(x.dtype)) * self.scale, bias


@dataclass(frozen=True)
class Adapted:
    """One adapted layer of this rank's part of the model.

    Attributes:
        key: name in checkpoints, with the layer's number in the whole model;
        stem: the checkpoint's module path up to the linear layers, `layers.4.mixer.`;
        modules: names after the stem, several where mcore fuses them;
        rows: components of the output of a fused Mamba in_proj, of the whole matrix; else None.
    """

    key: str
    stem: str
    modules: tuple[str, ...]
    rows: list[int] | None
    layer: LoRALinear

    def halves(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(`lora_a` or `lora_b`, parameter)."""
        yield "lora_a", self.layer.lora_a
        yield "lora_b", self.layer.lora_b


def inject(model: MambaModel, config: Any, lora: dict[str, Any], seed: int) -> list[Adapted]:
    """Freeze the model and put adapters on the recipe's targets; returns those of this rank.

    A's initial values (peft's distribution) depend on seed and name only, so every layout starts
    from the same adapter; B is zero.

    Raises:
        TargetError: the targets are not in the model, or split a fused matrix.
    """
    leaves = targets(config, lora["targets"])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    found = []
    for block in model.decoder.layers:
        number = block.layer_number - 1
        for name, module in list(block.named_modules()):
            for leaf, child in list(module.named_children()):
                path = f"{name}.{leaf}".lstrip(".")
                fits = isinstance(child, ColumnParallelLinear | RowParallelLinear)
                if leaf not in leaves or not fits or ".local_experts." in path:
                    continue
                wrapped = LoRALinear(child, lora["rank"], lora["alpha"], lora["dropout"])
                setattr(module, leaf, wrapped)
                inner = "shared_experts." if ".shared_experts." in path else ""
                item = Adapted(
                    key=f"decoder.layers.{number}.{path}", stem=f"layers.{number}.mixer.{inner}",
                    modules=HF_NAMES[leaf], layer=wrapped,
                    rows=mamba_rows(config) if leaf == "in_proj" else None,
                )
                _initialise(item, seed)
                found.append(item)
    return found


def _initialise(item: Adapted, seed: int) -> None:
    """kaiming_uniform(a=sqrt 5) of the whole A, of which a row-parallel rank takes its columns."""
    digest = hashlib.sha256(f"{seed}:{item.key}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
    layer: Any = item.layer.base
    rank = item.layer.lora_a.shape[0]
    into = layer.input_size if item.layer.row else item.layer.lora_a.shape[1]
    bound = 1.0 / math.sqrt(into)
    whole = torch.empty(rank, into).uniform_(-bound, bound, generator=generator)
    with torch.no_grad():
        item.layer.lora_a.copy_(shard(whole, 1) if item.layer.row else whole)
