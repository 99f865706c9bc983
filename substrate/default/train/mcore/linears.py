"""megatron-core's parallel linear layers, frozen, whose sequence parallelism runs on any device.

Without sequence parallelism they are megatron-core's own.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from torch import Tensor

from train.mcore.collectives import gather, scatter_sum

Out = tuple[Tensor, Tensor | None]


class Column(ColumnParallelLinear):
    """Rows of the matrix are divided; the layer takes a sequence shard and gives all of it."""

    def forward(self, input_: Tensor, *rest: Any, **more: Any) -> Out:
        """input_: (length or its share, rows, in); returns (length, rows, share of out), None."""
        if not self.sequence_parallel:
            out: Out = super().forward(input_, *rest, **more)
            return out
        return F.linear(gather(input_, self.tp_group), self.weight), None


class Row(RowParallelLinear):
    """Columns of the matrix are divided; the layer takes all of a sequence and gives a shard."""

    def forward(self, input_: Tensor) -> Out:
        """input_: (length, rows, share of in); returns (length or its share, rows, out), None."""
        if not self.sequence_parallel:
            out: Out = super().forward(input_)
            return out
        return scatter_sum(F.linear(input_, self.weight), self.tp_group), None
