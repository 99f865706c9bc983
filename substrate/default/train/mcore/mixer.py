"""The Mamba-2 mixer as a megatron-core module without mamba-ssm.

Parameters, names and tensor-parallel sharding are those of `megatron.core.ssm.mamba_mixer`, whose
import needs triton. On CUDA the kernels of mamba-ssm and causal-conv1d are used where installed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import build_module
from torch import Tensor, nn

from train.mcore.packing import Packing
from train.mcore.ssd import causal_conv, scan


@dataclass
class MambaMixerSubmodules:
    """Fields of megatron.core.ssm.mamba_mixer's class of that name."""

    in_proj: Any = None
    out_proj: Any = None


class GatedRMSNorm(nn.Module):
    """RMSNorm over groups of x * silu(z), the gate before the norm."""

    def __init__(self, size: int, group: int, epsilon: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size, dtype=dtype))
        self.group, self.epsilon = group, epsilon

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x, z: (..., size)."""
        gated = (x.float() * F.silu(z.float())).unflatten(-1, (-1, self.group))
        normed = gated * torch.rsqrt(gated.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return self.weight * normed.flatten(-2).to(self.weight.dtype)


class TorchMambaMixer(MegatronModule):
    """One tensor-parallel shard of a Mamba-2 mixer; rows of in_proj are [z, x, B, C, dt].

    dt is not clamped (as in mcore and vLLM; transformers clamps at time_step_min).
    """

    def __init__(
        self,
        config: Any,
        submodules: MambaMixerSubmodules,
        d_model: int,
        d_conv: int = 4,
        chunk_size: int = 128,
        layer_number: int | None = None,
        pg_collection: Any = None,
        pp_layer_offset: int = 0,
        **_: Any,
    ) -> None:
        super().__init__(config)
        self.layer_number, self.chunk_size = layer_number, chunk_size
        self.state, self.head_dim = config.mamba_state_dim, config.mamba_head_dim
        tp = pg_collection.tp.size()
        self.heads, self.groups = config.mamba_num_heads // tp, config.mamba_num_groups // tp
        self.inner = self.heads * self.head_dim
        wide = self.inner + 2 * self.groups * self.state
        whole = tp * (self.inner + wide + self.heads)
        common = {"config": config, "bias": False, "is_expert": False}
        self.in_proj = build_module(
            submodules.in_proj, d_model, whole, init_method=config.init_method,
            gather_output=False, skip_bias_add=False, tp_comm_buffer_name="fc1",
            tp_group=pg_collection.tp, **common,
        )
        dtype = config.params_dtype
        self.conv1d = nn.Conv1d(wide, wide, d_conv, groups=wide, padding=d_conv - 1, dtype=dtype)
        # Values that a checkpoint replaces; those of mcore's own initialisation.
        dt = torch.exp(torch.rand(self.heads) * math.log(100.0) + math.log(1e-3))
        self.dt_bias = nn.Parameter((dt + torch.log(-torch.expm1(-dt))).to(dtype))
        self.A_log = nn.Parameter(torch.log(torch.empty(self.heads).uniform_(1, 16)))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = GatedRMSNorm(
            self.inner, self.inner // self.groups, config.layernorm_epsilon, dtype
        )
        sharded = (self.conv1d.weight, self.conv1d.bias, self.dt_bias, self.A_log, self.D)
        for parameter in (*sharded, self.norm.weight):
            setattr(parameter, "tensor_model_parallel", True)  # noqa: B010  an attribute of mcore's
        self.out_proj = build_module(
            submodules.out_proj, tp * self.inner, d_model,
            init_method=config.output_layer_init_method, input_is_parallel=True,
            skip_bias_add=True, tp_comm_buffer_name="fc2", tp_group=pg_collection.tp, **common,
        )

    def forward(
        self,
        hidden_states: Tensor,
        inference_context: Any = None,
        *,
        packed_seq_params: Packing | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """hidden_states: (length, batch, hidden); returns the same shape, and the skipped bias."""
        projected, _bias = self.in_proj(hidden_states)
        projected = projected.transpose(0, 1)
        bc = self.groups * self.state
        z, wide, dt = torch.split(
            projected, [self.inner, self.inner + 2 * bc, self.heads], dim=-1
        )
        segments = None if packed_seq_params is None else packed_seq_params.segments
        kernels = _kernels() if projected.is_cuda else None
        y = (self._scan(wide, dt, segments) if kernels is None
             else self._fused(kernels, wide, dt, segments))
        y = self.norm(y.flatten(-2).to(projected.dtype), z)
        out: tuple[Tensor, Tensor | None] = self.out_proj(y.transpose(0, 1).contiguous())
        return out

    def _heads(self, wide: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, B and C with their heads and groups apart."""
        bc = self.groups * self.state
        x, b, c = torch.split(wide, [self.inner, bc, bc], dim=-1)
        return (x.unflatten(-1, (self.heads, self.head_dim)),
                b.unflatten(-1, (self.groups, self.state)),
                c.unflatten(-1, (self.groups, self.state)))

    def _scan(self, wide: Tensor, dt: Tensor, segments: Tensor | None) -> Tensor:
        weight = self.conv1d.weight.squeeze(1)
        x, b, c = self._heads(F.silu(causal_conv(wide, weight, self.conv1d.bias, segments)))
        x, b, c = x.float(), b.float(), c.float()
        step = F.softplus(dt.float() + self.dt_bias.float())
        y = scan(x, step, -torch.exp(self.A_log.float()), b, c, self.chunk_size, segments)
        return y + self.D.float()[:, None] * x

    def _fused(self, kernels: tuple[Callable[..., Tensor], Callable[..., Tensor]], wide: Tensor,
               dt: Tensor, segments: Tensor | None) -> Tensor:
        convolve, combined = kernels
        order = None if segments is None else segments.to(torch.int32)
        weight = self.conv1d.weight.squeeze(1)
        wide = convolve(wide.transpose(1, 2), weight, self.conv1d.bias, seq_idx=order,
                        activation="silu").transpose(1, 2)
        x, b, c = self._heads(wide)
        return combined(x, dt, -torch.exp(self.A_log.float()), b, c, self.chunk_size,
                        D=self.D.float(), dt_bias=self.dt_bias.float(), dt_softplus=True,
                        seq_idx=order)


@functools.cache
def _kernels() -> tuple[Callable[..., Tensor], Callable[..., Tensor]] | None:
    """causal-conv1d's and mamba-ssm's functions, or None where they are not installed."""
    try:
        from causal_conv1d import causal_conv1d_fn
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
    except ImportError:
        return None
    return causal_conv1d_fn, mamba_chunk_scan_combined
