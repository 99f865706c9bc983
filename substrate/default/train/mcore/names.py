"""What megatron-core calls the checkpoint's modules, and the rows of its fused matrices.

Needs no megatron: it is for every trainer that runs a model of megatron-core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from train.targets import TargetError, resolve

# mcore's linear layers and the checkpoint's modules that each of them is
HF_NAMES = {
    "linear_qkv": ("q_proj", "k_proj", "v_proj"),
    "linear_proj": ("o_proj",),
    "in_proj": ("in_proj",),
    "out_proj": ("out_proj",),
    "linear_fc1": ("up_proj",),
    "linear_fc2": ("down_proj",),
}
BY_KIND = {"M": ("in_proj", "out_proj"), "*": ("q_proj", "k_proj", "v_proj", "o_proj"),
           "-": ("up_proj", "down_proj"), "E": ("up_proj", "down_proj")}


def targets(config: Any, wanted: str | list[str]) -> set[str]:
    """mcore's names of the linear layers that the recipe's targets mean.

    Raises:
        TargetError: the targets are not in the model, or split a fused matrix.
    """
    present = {name for kind in config.hybrid_override_pattern for name in BY_KIND[kind]}
    names = set(resolve(wanted, present, config.model_type))
    leaves = set()
    for leaf, modules in HF_NAMES.items():
        chosen = names & set(modules)
        if chosen and chosen != set(modules):
            raise TargetError(
                f"train.lora.targets: {', '.join(modules)} are one matrix in megatron-core; "
                f"name all of them or none"
            )
        if chosen:
            leaves.add(leaf)
    return leaves


def mamba_rows(config: Any) -> list[int]:
    """Rows of in_proj by component: z, x, B, C, dt."""
    inner = config.mamba_num_heads * config.mamba_head_dim
    bc = config.n_groups * config.ssm_state_size
    return [inner, inner, bc, bc, config.mamba_num_heads]


def qkv_rows(config: Any) -> tuple[list[int], list[int], list[int]]:
    """Row numbers of queries, keys and values in mcore's fused matrix."""
    per, size = config.num_attention_heads // config.num_key_value_heads, config.head_dim
    q: list[int] = []
    k: list[int] = []
    v: list[int] = []
    for group in range(config.num_key_value_heads):
        at = group * (per + 2) * size
        q += range(at, at + per * size)
        k += range(at + per * size, at + (per + 1) * size)
        v += range(at + (per + 1) * size, at + (per + 2) * size)
    return q, k, v


def join(ranks: Sequence[Tensor], dim: int, sizes: Sequence[int] | None = None) -> Tensor:
    """The whole matrix from all ranks' parts along `dim`; of a fused one, whose components have
    `sizes`, each rank holds a part of every component."""
    world = len(ranks)
    split = [list(rank.split([s // world for s in sizes], dim) if sizes else [rank])
             for rank in ranks]
    return torch.cat([part for component in zip(*split, strict=True) for part in component], dim)
