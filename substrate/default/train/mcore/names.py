"""What megatron-core calls the checkpoint's modules, and the rows of its fused matrices.

Needs no megatron: it is for every trainer that runs a model of megatron-core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from train.targets import TargetError, resolve

# Places of linear layers in mcore's model, and the checkpoint's modules that each of them is.
HF_NAMES = {
    "linear_qkv": ("q_proj", "k_proj", "v_proj"),
    "linear_proj": ("o_proj",),
    "in_proj": ("in_proj",),
    "out_proj": ("out_proj",),
    "linear_fc1": ("up_proj",),
    "linear_fc2": ("down_proj",),
    "shared_experts.linear_fc1": ("shared_experts.up_proj",),
    "shared_experts.linear_fc2": ("shared_experts.down_proj",),
    "experts.linear_fc1": ("experts.up_proj",),
    "experts.linear_fc2": ("experts.down_proj",),
    "output_layer": ("lm_head",),
}
INNER = ("shared_experts", "experts")  # of a mixture's layer: below `mlp` there, below `mixer` here
BY_KIND = {
    "M": ("in_proj", "out_proj"), "*": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "-": ("up_proj", "down_proj"),
    "E": ("shared_experts.up_proj", "shared_experts.down_proj", "experts.up_proj",
          "experts.down_proj"),
}
SHARED = "shared_experts."  # a plain up_proj is that of shared experts, too


def chosen(config: Any, wanted: str | list[str]) -> set[str]:
    """The checkpoint's modules that the recipe's targets mean, by the end of their names.

    Raises:
        TargetError: the targets are not in the model.
    """
    present = {name for kind in config.hybrid_override_pattern for name in BY_KIND[kind]}
    present |= {name.removeprefix(SHARED) for name in present} | {"lm_head"}
    found = set(resolve(wanted, present, config.model_type))
    return found | {SHARED + name for name in found} & present


def targets(config: Any, wanted: str | list[str]) -> set[str]:
    """Places of the linear layers that the recipe's targets mean, keys of HF_NAMES.

    Raises:
        TargetError: the targets are not in the model, or split a fused matrix.
    """
    found, places = chosen(config, wanted), set()
    for place, modules in HF_NAMES.items():
        own = found & set(modules)
        if own and own != set(modules):
            raise TargetError(
                f"train.lora.targets: {', '.join(modules)} are one matrix in megatron-core; "
                f"name all of them or none"
            )
        if own:
            places.add(place)
    return places


def place_of(path: str) -> str:
    """The place of a module of mcore's layer, `mlp.shared_experts.linear_fc1`."""
    *above, leaf = path.split(".")
    return f"{above[-1]}.{leaf}" if above and above[-1] in INNER else leaf


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
