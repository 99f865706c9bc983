"""The Mamba-2 mixer as a megatron-core module without mamba-ssm.

Parameters, names and tensor-parallel sharding are those of `megatron.core.ssm.mamba_mixer`, whose
import needs triton. On CUDA the scan of mamba-ssm (pure Triton) and the convolution of
causal-conv1d are used where installed, each for itself; `kernels` says which.
"""

from __future__ import annotations

import functools
import importlib
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
from train.mcore.recompute import recomputed
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
        recompute: bool = False,
        **_: Any,
    ) -> None:
        super().__init__(config)
        self.layer_number, self.chunk_size, self.recompute = layer_number, chunk_size, recompute
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
        segments = None if packed_seq_params is None else packed_seq_params.segments
        mixed = recomputed(self.recompute, self._mixed, projected.transpose(0, 1), segments)
        out: tuple[Tensor, Tensor | None] = self.out_proj(mixed.transpose(0, 1).contiguous())
        return out

    def _mixed(self, projected: Tensor, segments: Tensor | None) -> Tensor:
        """What out_proj is given: convolution, scan, gate and norm; (rows, length, inner)."""
        bc, own = self.groups * self.state, kernels(projected.device.type)
        z, wide, dt = torch.split(projected, [self.inner, self.inner + 2 * bc, self.heads], dim=-1)
        heads = self._heads(self._convolved(own, wide, segments))
        y = self._scanned(own, *heads, dt, segments)
        return self.norm(y.flatten(-2).to(projected.dtype), z)

    def _heads(self, wide: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, B and C with their heads and groups apart."""
        bc = self.groups * self.state
        x, b, c = torch.split(wide, [self.inner, bc, bc], dim=-1)
        return (x.unflatten(-1, (self.heads, self.head_dim)),
                b.unflatten(-1, (self.groups, self.state)),
                c.unflatten(-1, (self.groups, self.state)))

    def _convolved(self, own: Kernels, wide: Tensor, segments: Tensor | None) -> Tensor:
        weight, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
        if own.convolve is None:
            return F.silu(causal_conv(wide, weight, bias, segments))
        order = None if segments is None else segments.to(torch.int32)
        return own.convolve(wide.transpose(1, 2), weight, bias, seq_idx=order,
                            activation="silu").transpose(1, 2)

    def _scanned(self, own: Kernels, x: Tensor, b: Tensor, c: Tensor, dt: Tensor,
                 segments: Tensor | None) -> Tensor:
        decay, skip, shift = -torch.exp(self.A_log.float()), self.D.float(), self.dt_bias.float()
        if own.scan is not None:
            order = None if segments is None else segments.to(torch.int32)
            return own.scan(x, dt, decay, b, c, self.chunk_size, D=skip, dt_bias=shift,
                            dt_softplus=True, seq_idx=order)
        x, b, c = x.float(), b.float(), c.float()
        y = scan(x, F.softplus(dt.float() + shift), decay, b, c, self.chunk_size, segments)
        return y + skip[:, None] * x


@dataclass(frozen=True)
class Kernels:
    """Functions of packages that may be installed; None: plain torch.

    Attributes:
        scan: mamba_ssm's mamba_chunk_scan_combined; convolve: causal_conv1d's causal_conv1d_fn.
    """

    scan: Callable[..., Tensor] | None = None
    convolve: Callable[..., Tensor] | None = None

    @property
    def names(self) -> dict[str, str]:
        """Which way the scan and the convolution go."""
        return {"scan": "torch" if self.scan is None else "mamba_ssm",
                "convolution": "torch" if self.convolve is None else "causal_conv1d"}


@functools.cache
def kernels(device: str) -> Kernels:
    """Those for tensors on such a device. mamba_ssm's scan is Triton alone: neither its own CUDA
    extension nor causal-conv1d is needed for it."""
    if device != "cuda":
        return Kernels()
    return Kernels(_function("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined"),
                   _function("causal_conv1d", "causal_conv1d_fn"))


def _function(module: str, name: str) -> Callable[..., Tensor] | None:
    try:
        found: Callable[..., Tensor] = getattr(importlib.import_module(module), name)
    except ImportError:
        return None
    return found
