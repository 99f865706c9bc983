"""Microbatches through the pipeline stages: forward, loss, backward.

One stage: each microbatch forward and backward in turn. Several: all forwards, then all backwards
(GPipe), by plain sends and receives, so it runs on gloo as on nccl; the activations of a step's
microbatches are held at once. (megatron-core's schedules need CUDA.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.mamba import MambaModel
from torch import Tensor

from train.batching import IGNORE, Batch
from train.mcore.model import hidden, token_losses


@dataclass(frozen=True)
class Micro:
    """One forward pass of this rank.

    Attributes:
        ids: (rows, length); segments: (rows, length) or None; at: flat positions that predict a
        learned token; targets, weights: of those.
    """

    ids: Tensor
    segments: Tensor | None
    at: Tensor
    targets: Tensor
    weights: Tensor


def split(batch: Batch, micro_rows: int, device: torch.device) -> tuple[list[Micro], float]:
    """This data-parallel rank's microbatches of a batch that every rank knows whole, and the sum
    of the whole batch's weights.

    Rows are dealt out in turn, so that ranks get rows of like length. Every rank gets as many rows
    and microbatches as the others, all of one width (ranks that share experts talk to each other
    in each): empty rows fill up.
    """
    rank = parallel_state.get_data_parallel_rank()
    ranks = parallel_state.get_data_parallel_world_size()
    targets = torch.cat([batch.labels[:, 1:], torch.full_like(batch.labels[:, :1], IGNORE)], 1)
    weights = torch.cat([batch.weights[:, 1:], torch.zeros_like(batch.weights[:, :1])], 1)
    total = float(weights[targets != IGNORE].sum())
    per_rank = -(-len(batch.ids) // ranks)
    size = min(micro_rows or per_rank, per_rank)
    count = -(-per_rank // size)
    missing = count * size * ranks - len(batch.ids)

    def dealt(tensor: Tensor, filler: float) -> list[Tensor]:
        shape = (missing, *tensor.shape[1:])
        whole = torch.cat([tensor, torch.full(shape, filler, dtype=tensor.dtype)])
        return list(whole[rank::ranks].split(size))

    ids, labels = dealt(batch.ids, 0), dealt(targets, IGNORE)
    loads = dealt(weights, 0)
    segments = [None] * count if batch.segments is None else dealt(batch.segments, -1)
    return [
        _micro(*part, device) for part in zip(ids, labels, loads, segments, strict=True)
    ], total


def forward_backward(model: MambaModel, parts: list[Micro], total: float, training: bool) -> Tensor:
    """This rank's share of the batch's mean loss; with `training` its gradients are added, too.

    Ranks' shares and gradients are to be summed. A stage that is not the last gives zero.
    """
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        return _pipelined(model, parts, total, training)
    loss = torch.zeros((), device=parts[0].ids.device)
    for part in parts:
        share = _loss(model, hidden(model, part.ids, part.segments), part, total)
        if training:
            share.backward()
        loss = loss + share.detach()
    return loss


def _pipelined(model: MambaModel, parts: list[Micro], total: float, training: bool) -> Tensor:
    first = parallel_state.is_pipeline_first_stage()
    last = parallel_state.is_pipeline_last_stage()
    before = parallel_state.get_pipeline_model_parallel_prev_rank()
    after = parallel_state.get_pipeline_model_parallel_next_rank()
    loss = torch.zeros((), device=parts[0].ids.device)
    held: list[tuple[Tensor | None, Tensor]] = []
    for part in parts:
        entering = None
        if not first:
            entering = torch.empty(_shape(model, part), dtype=model.config.params_dtype,
                                   device=part.ids.device)
            dist.recv(entering, src=before)
            entering.requires_grad_(training)
            model.set_input_tensor(entering)
        out = hidden(model, part.ids, part.segments)
        if last:
            out = _loss(model, out, part, total)
            loss = loss + out.detach()
        else:
            dist.send(out.detach().contiguous(), dst=after)
        held.append((entering, out))
    for entering, out in held if training else ():
        if last:
            out.backward()
        else:
            gradient = torch.empty_like(out)
            dist.recv(gradient, src=after)
            if out.requires_grad:  # not where the first stages carry no adapter
                out.backward(gradient)
        if entering is not None:
            dist.send(torch.zeros_like(entering) if entering.grad is None else entering.grad,
                      dst=before)
    return loss


def _loss(model: MambaModel, states: Tensor, part: Micro, total: float) -> Tensor:
    losses = token_losses(model, states, part.targets, part.at)
    return (losses * part.weights).sum() / max(total, 1e-8)


def _shape(model: MambaModel, part: Micro) -> tuple[int, int, int]:
    rows, length = part.ids.shape
    if model.config.sequence_parallel:
        length //= parallel_state.get_tensor_model_parallel_world_size()
    return length, rows, model.config.hidden_size


def _micro(ids: Tensor, labels: Tensor, weights: Tensor, segments: Tensor | None,
           device: torch.device) -> Micro:
    at = torch.nonzero(labels.reshape(-1) != IGNORE).squeeze(1)
    targets, loads = labels.reshape(-1)[at], weights.reshape(-1)[at]
    if len(at) == 0:  # an empty share still takes part in every collective
        at, targets, loads = torch.zeros(1, dtype=torch.long), torch.zeros_like(ids[0, :1]), (
            torch.zeros(1))
    return Micro(
        ids.to(device), None if segments is None else segments.to(device), at.to(device),
        targets.to(device), loads.to(device),
    )
