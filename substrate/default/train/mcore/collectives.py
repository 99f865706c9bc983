"""Rows of all ranks together, and sums of them apart, where the tensors are.

megatron-core's own functions for it allocate on the current CUDA device. These run on gloo as on
nccl, so that sequence and expert parallelism are the same code on CPU, where tests can see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup
Sizes = Sequence[int]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: Group, partial: bool) -> Tensor:
        ctx.group, ctx.partial = group, partial
        return joined(rows, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        part = summed(grads[0], ctx.group) if ctx.partial else own(grads[0], ctx.group)
        return part, None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return summed(rows, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return joined(grads[0], ctx.group), None


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: Sizes, received: Sizes, group: Group) -> Tensor:
        ctx.group, ctx.sent, ctx.received = group, sent, received
        return exchanged(rows, sent, received, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return exchanged(grads[0], ctx.received, ctx.sent, ctx.group), None, None, None


def exchange(rows: Tensor, sent: Sizes, received: Sizes, group: Group) -> Tensor:
    """Each rank's rows to the ranks they are for.

    Args:
        sent: how many go to each rank, in order of ranks; received: how many come from each.
    """
    out: Tensor = _Exchange.apply(rows, sent, received, group)
    return out


def gather(rows: Tensor, group: Group, partial: bool = True) -> Tensor:
    """All ranks' rows (first dimension), one after the other.

    Args:
        partial: each rank's gradient is its share of a sum, as where ranks compute different things
            from the rows; else every rank has the whole gradient, and keeps its own rows of it.
    """
    out: Tensor = _Gather.apply(rows, group, partial)
    return out


def scatter_sum(rows: Tensor, group: Group) -> Tensor:
    """Rows summed over ranks, each rank keeping its own; the reverse of `gather`."""
    out: Tensor = _Scatter.apply(rows, group)
    return out


def joined(rows: Tensor, group: Group) -> Tensor:
    """`gather` without gradients."""
    whole = rows.new_empty(len(rows) * group.size(), *rows.shape[1:])
    dist.all_gather_into_tensor(whole, rows.contiguous(), group=group)
    return whole


def summed(rows: Tensor, group: Group) -> Tensor:
    """`scatter_sum` without gradients."""
    part = rows.new_empty(len(rows) // group.size(), *rows.shape[1:])
    dist.reduce_scatter_tensor(part, rows.contiguous(), group=group)
    return part


def exchanged(rows: Tensor, sent: Sizes, received: Sizes, group: Group) -> Tensor:
    """`exchange` without gradients."""
    out = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(out, rows.contiguous(), list(received), list(sent), group=group)
    return out


def own(rows: Tensor, group: Group) -> Tensor:
    """This rank's part of rows that every rank has whole."""
    return rows.chunk(group.size())[group.rank()].contiguous()
