"""Microbatches through the pipeline stages: forward, loss, backward.

One stage: each microbatch forward and backward in turn. Several: all forwards, then all backwards
(GPipe), by plain sends and receives, so it runs on gloo as on nccl; the activations of a step's
microbatches are held at once. (megatron-core's schedules need CUDA.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.mamba import MambaModel
from torch import Tensor

from train.batching import IGNORE, Batch
from train.mcore.layout import Layout
from train.mcore.model import hidden, token_losses

MULTIPLE = 8  # widths of microbatches: sequence shards are even, matrices aligned
FILLERS = {"ids": 0, "labels": IGNORE, "weights": 0, "segments": -1}  # of empty rows


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


def split(batch: Batch, layout: Layout, device: torch.device) -> tuple[list[Micro], float]:
    """This data-parallel rank's microbatches of a batch that every rank knows whole, and the sum
    of the whole batch's weights.

    Rows go in order of length, each microbatch as wide as its longest, so that short rows are not
    computed at the width of long ones. A width ends at the last learned token: what follows cannot
    reach the loss. Rows are dealt out in turn, and every rank gets as many rows and microbatches of
    the same widths as the others (ranks that share experts talk to each other in each): empty rows
    fill up. The mean loss is that of the whole batch, whatever the pieces.
    """
    ranks = parallel_state.get_data_parallel_world_size()
    targets = torch.cat([batch.labels[:, 1:], torch.full_like(batch.labels[:, :1], IGNORE)], 1)
    weights = torch.cat([batch.weights[:, 1:], torch.zeros_like(batch.weights[:, :1])], 1)
    total = float(weights[targets != IGNORE].sum())
    whole = {"ids": batch.ids, "labels": targets, "weights": weights}
    if batch.segments is not None:
        whole["segments"] = batch.segments
    return [
        _micro({name: _dealt(tensor, rows, width, FILLERS[name])
                for name, tensor in whole.items()}, device)
        for rows, width in pieces(_lengths(targets), ranks, layout)
    ], total


def pieces(lengths: list[int], ranks: int, layout: Layout) -> list[tuple[list[int], int]]:
    """(rows, width) of each microbatch of all ranks together, longest rows first.

    A rank's share is at most `micro_batch` rows and `micro_tokens` tokens, or one row where that
    is longer.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])  # stable: deterministic
    found, at = [], 0
    while at < len(order):
        width = -(-lengths[order[at]] // MULTIPLE) * MULTIPLE
        each = layout.micro_batch or len(order)
        if layout.micro_tokens:
            each = min(each, max(1, layout.micro_tokens // width))
        found.append((order[at : at + each * ranks], width))
        at += each * ranks
    return found


def _lengths(targets: Tensor) -> list[int]:
    """Of each row, up to and with the last position that predicts a learned token; at least 1."""
    places = torch.arange(1, targets.shape[1] + 1)
    ends: list[int] = (places * (targets != IGNORE)).amax(1).clamp_min(1).tolist()
    return ends


def _dealt(tensor: Tensor, rows: list[int], width: int, filler: float) -> Tensor:
    """This data-parallel rank's rows of these, cut to `width`; as many as every other rank's."""
    rank = parallel_state.get_data_parallel_rank()
    ranks = parallel_state.get_data_parallel_world_size()
    chosen = F.pad(tensor[rows, :width], (0, max(width - tensor.shape[1], 0)), value=filler)
    empty = chosen.new_full((-len(rows) % ranks, width), filler)
    return torch.cat([chosen, empty])[rank::ranks]


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


def _micro(own: dict[str, Tensor], device: torch.device) -> Micro:
    labels = own["labels"].reshape(-1)
    at = torch.nonzero(labels != IGNORE).squeeze(1)
    targets, loads = labels[at], own["weights"].reshape(-1)[at]
    if len(at) == 0:  # an empty share still takes part in every collective
        at, targets, loads = torch.zeros(1, dtype=torch.long), labels[:1] * 0, torch.zeros(1)
    segments = own.get("segments")
    return Micro(
        own["ids"].to(device), None if segments is None else segments.to(device), at.to(device),
        targets.to(device), loads.to(device),
    )
