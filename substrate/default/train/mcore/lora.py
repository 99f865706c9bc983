"""LoRA around megatron-core's parallel linear layers and around the routed experts.

A column-parallel layer's A is whole on each rank and its B sharded by rows; a row-parallel layer's
A is sharded by columns and its B whole. Routed experts have a pair each, on the rank that has the
expert. The adapter is fp32 whatever the base is.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.mamba import MambaModel
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from torch import Tensor, nn

from train.mcore.collectives import gather, scatter_sum
from train.mcore.grouped import ALIGNED, GroupedLinear, Groups, multiply
from train.mcore.names import HF_NAMES, mamba_rows, place_of, targets
from train.mcore.weights import shard
from train.targets import rank, scale


class LoRALinear(nn.Module):
    """A frozen parallel linear layer plus a trained low-rank branch.

    Called as the layer is: returns (output, bias to add later).
    """

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        layer: Any = base
        self.base, self.scale, self.dropout = base, scale, dropout
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


class LoRAExperts(nn.Module):
    """A frozen matrix per local expert plus a trained low-rank branch for each.

    lora_a: (experts, rank, in); lora_b: (experts, out, rank). Nothing of it is divided among
    tensor-parallel ranks.
    """

    row, sequence, sharded = False, False, ""

    def __init__(self, base: GroupedLinear, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        experts, out, into = base.weight.shape
        self.base, self.scale, self.dropout = base, scale, dropout
        self.lora_a = nn.Parameter(torch.zeros(experts, rank, into))
        self.lora_b = nn.Parameter(torch.zeros(experts, out, rank))

    def forward(self, rows: Tensor, groups: Groups) -> Tensor:
        """rows: (rows, in), sorted by expert."""
        a, b = self.lora_a.to(rows.dtype), self.lora_b.to(rows.dtype)
        short = -a.shape[1] % (ALIGNED // rows.dtype.itemsize)  # grouped_mm wants whole 16 bytes
        a, b = F.pad(a, (0, 0, 0, short)), F.pad(b, (0, short))
        low = multiply(F.dropout(rows, self.dropout, self.training), a, groups)
        out: Tensor = self.base(rows, groups)
        return out + multiply(low, b, groups) * self.scale


@dataclass(frozen=True)
class Adapted:
    """One adapted layer of this rank's part of the model.

    Attributes:
        key: name in checkpoints, with the layer's number in the whole model;
        stem: the checkpoint's module path up to the linear layers, `layers.4.mixer.`; empty for the
            head;
        modules: names after the stem, several where mcore fuses them; those of experts without
            their number;
        rows: components of the output of a fused Mamba in_proj, of the whole matrix; else None.
    """

    key: str
    stem: str
    modules: tuple[str, ...]
    rows: list[int] | None
    layer: LoRALinear | LoRAExperts

    @property
    def routed(self) -> bool:
        """Whether it is on routed experts, of which each rank of the expert group has others."""
        return isinstance(self.layer, LoRAExperts)

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
    places = targets(config, lora["targets"])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    found = [item for block in model.decoder.layers for item in _block(block, config, lora, places)]
    if model.post_process and "output_layer" in places:
        model.output_layer = _wrapped(model.output_layer, lora, "output_layer")
        found.append(Adapted("output_layer", "", ("lm_head",), None, model.output_layer))
    for item in found:
        _initialise(item, seed)
    return found


def _block(block: Any, config: Any, lora: dict[str, Any],
           places: set[str]) -> Iterator[Adapted]:
    """Wraps what of one layer is among the places."""
    number = block.layer_number - 1
    for name, module in list(block.named_modules()):
        for leaf, child in list(module.named_children()):
            path = f"{name}.{leaf}".lstrip(".")
            place = place_of(path)
            fits = isinstance(child, ColumnParallelLinear | RowParallelLinear | GroupedLinear)
            if not fits or place not in places:
                continue
            wrapped = _wrapped(child, lora, place)
            setattr(module, leaf, wrapped)
            yield Adapted(
                key=f"decoder.layers.{number}.{path}", stem=f"layers.{number}.mixer.",
                modules=HF_NAMES[place], layer=wrapped,
                rows=mamba_rows(config) if place == "in_proj" else None,
            )


def _wrapped(layer: nn.Module, lora: dict[str, Any], place: str) -> LoRALinear | LoRAExperts:
    own = rank(lora, HF_NAMES[place][0])
    if isinstance(layer, GroupedLinear):
        return LoRAExperts(layer, own, scale(lora), lora["dropout"])
    return LoRALinear(layer, own, scale(lora), lora["dropout"])


@torch.no_grad()
def _initialise(item: Adapted, seed: int) -> None:
    """kaiming_uniform(a=sqrt 5) of the whole A, of which a row-parallel rank takes its columns."""
    layer: Any = item.layer
    if item.routed:
        first = parallel_state.get_expert_model_parallel_rank() * len(layer.lora_a)
        for number, own in enumerate(layer.lora_a, first):
            own.copy_(_drawn(f"{seed}:{item.key}:{number}", *own.shape))
        return
    into = layer.base.input_size if layer.row else layer.lora_a.shape[1]
    whole = _drawn(f"{seed}:{item.key}", len(layer.lora_a), into)
    layer.lora_a.copy_(shard(whole, 1) if layer.row else whole)


def _drawn(key: str, rows: int, columns: int) -> Tensor:
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
    bound = 1.0 / math.sqrt(columns)
    return torch.empty(rows, columns).uniform_(-bound, bound, generator=generator)


def reduce_gradients(adapted: Sequence[Adapted]) -> None:
    """Sum gradients over the ranks that saw other rows, or other parts of a sequence; collective.

    An expert's gradient is already that of all rows of its expert group, which sent it theirs.
    """
    rows = parallel_state.get_data_parallel_group(with_context_parallel=True)
    expert_rows = parallel_state.get_expert_data_parallel_group()
    for item in adapted:
        for half, parameter in item.halves():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            group = expert_rows if item.routed else rows
            if group.size() > 1:
                dist.all_reduce(parameter.grad, group=group)
            if item.layer.sequence and half != item.layer.sharded:
                dist.all_reduce(
                    parameter.grad, group=parallel_state.get_tensor_model_parallel_group())


def squared_norm(adapted: Sequence[Adapted], device: torch.device) -> Tensor:
    """Of the whole model's gradients, each number counted once; collective."""
    lowest = parallel_state.get_tensor_model_parallel_rank() == 0
    plain, routed = torch.zeros(2, device=device).unbind()
    for item in adapted:
        for half, parameter in item.halves():
            if parameter.grad is None:
                continue
            square = parameter.grad.float().pow(2).sum()
            if item.routed:
                routed = routed + square
            elif half == item.layer.sharded or lowest:
                plain = plain + square
    dist.all_reduce(plain, group=parallel_state.get_tensor_model_parallel_group())
    dist.all_reduce(routed, group=parallel_state.get_expert_model_parallel_group())
    total = plain + routed
    dist.all_reduce(total, group=parallel_state.get_pipeline_model_parallel_group())
    return total


def size(adapted: Sequence[Adapted], device: torch.device) -> int:
    """Trained parameters of the whole model; collective."""
    tensor = parallel_state.get_tensor_model_parallel_world_size()
    expert = parallel_state.get_expert_model_parallel_world_size()
    own = sum(
        parameter.numel() * (expert if item.routed else tensor if half == item.layer.sharded else 1)
        for item in adapted for half, parameter in item.halves()
    )
    count = torch.tensor([own], device=device)
    dist.all_reduce(count, group=parallel_state.get_pipeline_model_parallel_group())
    return int(count.item())
