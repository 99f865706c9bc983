"""Names and shards: which tensor of the checkpoint is which parameter of this rank.

Fused matrices are sharded by component. Rows of `in_proj` are [z, x, B, C, dt], so a rank has a
part of each, and ranks' rows put one after the other are not the matrix. Rows of `linear_qkv` are
the query, key and value heads of one group after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from eval.adapter import weight_files
from megatron.core import parallel_state
from megatron.core.models.mamba import MambaModel
from safetensors import safe_open
from torch import Tensor, nn

from train.mcore.names import join, mamba_rows, qkv_rows
from train.peft_format import ModelError

ROOTS = ("backbone.", "model.")  # of the decoder's names, as hub and transformers 5 write them


class Checkpoint:
    """Tensors of a checkpoint folder, read one at a time; names without the decoder's root."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.files: dict[str, tuple[Path, str]] = {}
        for path in weight_files(base):
            with safe_open(str(path), framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118  safe_open is not a mapping
                    self.files[_without_root(name)] = (path, name)

    def __call__(self, name: str) -> Tensor:
        """The tensor of that name.

        Raises:
            ModelError: there is none.
        """
        if name not in self.files:
            raise ModelError(f"{self.base}: has no tensor {name}")
        path, stored = self.files[name]
        with safe_open(str(path), framework="pt") as handle:
            tensor: Tensor = handle.get_tensor(stored)
        return tensor


def shard(tensor: Tensor, dim: int, sizes: Sequence[int] | None = None) -> Tensor:
    """This rank's part along `dim`, of each component where `sizes` gives them."""
    rank = parallel_state.get_tensor_model_parallel_rank()
    world = parallel_state.get_tensor_model_parallel_world_size()
    if world == 1:
        return tensor
    parts = tensor.split(list(sizes), dim) if sizes else [tensor]
    return torch.cat([part.chunk(world, dim)[rank] for part in parts], dim)


def unshard(tensor: Tensor, dim: int, sizes: Sequence[int] | None = None) -> Tensor:
    """The reverse of `shard`, on every rank of the tensor-parallel group; `sizes` of the whole."""
    world = parallel_state.get_tensor_model_parallel_world_size()
    if world == 1:
        return tensor
    ranks = [torch.empty_like(tensor) for _ in range(world)]
    group = parallel_state.get_tensor_model_parallel_group()
    dist.all_gather(ranks, tensor.contiguous(), group=group)
    return join(ranks, dim, sizes)


@torch.no_grad()
def load(model: MambaModel, config: Any, base: Path) -> None:
    """Fill this rank's parameters from the checkpoint.

    Raises:
        ModelError: the checkpoint lacks a tensor, or one has another shape.
    """
    read = Checkpoint(base)
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    filled: set[str] = set()

    def put(name: str, tensor: Tensor) -> None:
        if own[name].shape != tensor.shape:
            raise ModelError(f"{base}: {name} wants {tuple(own[name].shape)}, the checkpoint has "
                             f"{tuple(tensor.shape)}")
        own[name].copy_(tensor)
        filled.add(name)

    if model.pre_process:
        put("embedding.word_embeddings.weight", shard(read("embeddings.weight"), 0))
    if model.post_process:
        put("decoder.final_norm.weight", read("norm_f.weight"))
        put("output_layer.weight", shard(read("lm_head.weight"), 0))
    for place, layer in enumerate(model.decoder.layers):
        number = layer.layer_number - 1
        for name, tensor in _layer(config, read, number, layer):
            put(f"decoder.layers.{place}.{name}", tensor)
    missing = {name for name, _ in model.named_parameters()} - filled
    if missing:
        raise ModelError(f"{base}: nothing for {', '.join(sorted(missing)[:3])}")


def _layer(
    config: Any, read: Checkpoint, number: int, layer: nn.Module
) -> list[tuple[str, Tensor]]:
    """(mcore name, this rank's tensor) of the layer with this number in the whole model."""
    kind = config.hybrid_override_pattern[number]
    norm = read(f"layers.{number}.norm.weight")

    def get(name: str) -> Tensor:
        return read(f"layers.{number}.mixer.{name}")

    if kind == "M":
        return [("norm.weight", norm), *_mamba(config, get)]
    if kind == "*":
        return [("input_layernorm.weight", norm), *_attention(config, get)]
    if kind == "-":
        return [("pre_mlp_layernorm.weight", norm), *_mlp("mlp.", "", get)]
    return [("pre_mlp_layernorm.weight", norm), *_experts(get, layer)]


def _mamba(config: Any, get: Any) -> list[tuple[str, Tensor]]:
    rows = mamba_rows(config)
    found = [("mixer.in_proj.weight", shard(get("in_proj.weight"), 0, rows)),
             ("mixer.out_proj.weight", shard(get("out_proj.weight"), 1))]
    found += [(f"mixer.conv1d.{half}", shard(get(f"conv1d.{half}"), 0, rows[1:4]))
              for half in ("weight", "bias")]
    return found + [(f"mixer.{name}", shard(get(name), 0))
                    for name in ("A_log", "D", "dt_bias", "norm.weight")]


def _attention(config: Any, get: Any) -> list[tuple[str, Tensor]]:
    parts = [get(f"{part}_proj.weight") for part in "qkv"]
    fused = torch.empty(sum(len(p) for p in parts), parts[0].shape[1], dtype=parts[0].dtype)
    for rows, part in zip(qkv_rows(config), parts, strict=True):
        fused[rows] = part
    return [("self_attention.linear_qkv.weight", shard(fused, 0)),
            ("self_attention.linear_proj.weight", shard(get("o_proj.weight"), 1))]


def _mlp(prefix: str, source: str, get: Any) -> list[tuple[str, Tensor]]:
    return [(f"{prefix}linear_fc1.weight", shard(get(f"{source}up_proj.weight"), 0)),
            (f"{prefix}linear_fc2.weight", shard(get(f"{source}down_proj.weight"), 1))]


def _experts(get: Any, layer: nn.Module) -> list[tuple[str, Tensor]]:
    moe: Any = layer.mlp
    found = [("mlp.router.weight", get("gate.weight")),
             ("mlp.router.expert_bias", get("gate.e_score_correction_bias"))]
    found += _mlp("mlp.shared_experts.", "shared_experts.", get)
    for leaf, module in (("linear_fc1", "up_proj"), ("linear_fc2", "down_proj")):
        own = [get(f"experts.{number}.{module}.weight") for number in moe.local_expert_indices]
        found.append((f"mlp.experts.{leaf}.weight", torch.stack(own)))  # expert tensor size is 1
    return found


def _without_root(name: str) -> str:
    for root in ROOTS:
        if name.startswith(root):
            return name[len(root):]
    return name
