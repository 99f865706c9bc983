"""Routed experts as stacked matrices: one grouped multiplication where megatron-core loops.

A loop over 128 experts is thousands of tiny operations a layer, forward and backward, which the
processor issues more slowly than any accelerator computes them. `torch.nn.functional.grouped_mm`
multiplies all experts' tokens in one call. The weights are frozen, so there is no weight gradient,
and tokens and gradients are those of the loop. Where grouped_mm does not take the numbers (fp64,
rows that are not a multiple of 16 bytes, an older torch) the experts run one after the other;
`method` says which it is, and the trainer writes it down.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn

from train.mcore.recompute import recomputed

ALIGNED = 16  # bytes: what grouped_mm wants every row to be a multiple of


@dataclass(frozen=True)
class Groups:
    """Which rows belong to which expert: `counts[e]` rows in turn, ending before `ends[e]`.

    Attributes: counts, of length experts, on CPU; ends, int32, on the rows' device.
    """

    counts: Tensor
    ends: Tensor

    @classmethod
    def of(cls, counts: Tensor, device: torch.device) -> Groups:
        """Groups of these sizes for rows on `device`."""
        return cls(counts.cpu(), counts.cumsum(0).to(device=device, dtype=torch.int32))


def multiply(rows: Tensor, weight: Tensor, groups: Groups) -> Tensor:
    """Each expert's rows by its own matrix.

    Args:
        rows: (rows, in), sorted by expert; weight: (experts, out, in).

    Returns:
        (rows, out).
    """
    if method(rows.device.type, rows.dtype, weight.shape[1], weight.shape[2]) == "grouped_mm":
        return F.grouped_mm(rows, weight.transpose(1, 2), offs=groups.ends)
    parts = rows.split(groups.counts.tolist())
    return torch.cat([F.linear(part, own) for part, own in zip(parts, weight, strict=True)])


def method(device: str, dtype: torch.dtype, *widths: int) -> str:
    """`grouped_mm`, or `sequential` where torch cannot multiply matrices so wide at once."""
    aligned = all(width * dtype.itemsize % ALIGNED == 0 for width in widths)
    return "grouped_mm" if aligned and _takes(device, dtype) else "sequential"


@functools.cache
def _takes(device: str, dtype: torch.dtype) -> bool:
    """Whether grouped_mm goes forward and backward here: tried, since torch documents no list."""
    if not hasattr(F, "grouped_mm"):  # torch < 2.10
        return False
    # The first to ask may have gradients off, or count what is kept for the backward pass.
    with (torch.inference_mode(False), torch.enable_grad(),
          torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, lambda kept: kept)):
        rows = torch.ones(32, 32, device=device, dtype=dtype, requires_grad=True)
        weight = torch.ones(2, 32, 32, device=device, dtype=dtype)
        ends = torch.tensor([16, 32], device=device, dtype=torch.int32)
        try:
            F.grouped_mm(rows, weight, offs=ends).backward(torch.ones_like(rows))
        except RuntimeError:
            return False
    return True


class GroupedLinear(nn.Module):
    """A frozen matrix per local expert.

    Called with rows sorted by expert and their groups.
    """

    def __init__(self, experts: int, into: int, out: int, dtype: torch.dtype) -> None:
        super().__init__()
        # No initial values: every weight comes from the checkpoint, which is checked.
        weight = torch.empty(experts, out, into, dtype=dtype)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, rows: Tensor, groups: Groups) -> Tensor:
        """rows: (rows, in); returns (rows, out)."""
        return multiply(rows, self.weight, groups)


class GroupedExperts(MegatronModule):
    """megatron-core's SequentialMLP without the loop: same arguments, inputs and outputs.

    Expert tensor parallelism is 1, so each matrix is whole.
    """

    def __init__(self, num_local_experts: int, config: Any, pg_collection: Any = None,
                 recompute: bool = False) -> None:
        super().__init__(config=copy.copy(config))
        self.recompute = recompute
        wide, inner, dtype = config.hidden_size, config.moe_ffn_hidden_size, config.params_dtype
        self.num_local_experts = num_local_experts
        self.linear_fc1 = GroupedLinear(num_local_experts, wide, inner, dtype)
        self.linear_fc2 = GroupedLinear(num_local_experts, inner, wide, dtype)

    def forward(self, rows: Tensor, tokens_per_expert: Tensor,
                probabilities: Tensor) -> tuple[Tensor, None]:
        """rows: (rows, hidden) sorted by local expert; probabilities: (rows), by which what an
        expert says is weighed. Returns the same shape, and no bias."""
        groups = Groups.of(tokens_per_expert, rows.device)
        return recomputed(self.recompute, self._answers, rows, groups, probabilities), None

    def _answers(self, rows: Tensor, groups: Groups, probabilities: Tensor) -> Tensor:
        inner = self.config.activation_func(self.linear_fc1(rows, groups))
        inner = (inner * probabilities[:, None]).to(rows.dtype)
        out: Tensor = self.linear_fc2(inner, groups)
        return out
