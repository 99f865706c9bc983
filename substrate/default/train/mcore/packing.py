"""Which sequence each position of a packed row belongs to, as layers are told it.

megatron-core hands `packed_seq_params` from the model to every attention and Mamba layer. Its own
class is for one long row in TE's `thd` format; this one keeps rows, so the same code packs on CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Attributes: segments, (rows, length), numbers that differ between neighbouring sequences;
    mask, boolean (rows, 1, length, length), True where a position may look."""

    segments: Tensor
    mask: Tensor
    qkv_format: str = "sbhd"  # mcore's attention asks for it

    @classmethod
    def of(cls, segments: Tensor) -> Packing:
        """The packing of rows whose positions have these segment numbers."""
        length = segments.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
        same = segments[:, :, None] == segments[:, None, :]
        return cls(segments, (same & causal)[:, None])
