"""The resume state in megatron's `torch_dist` format: adapter and optimiser, sharded.

Written synchronously, each tensor by one rank (`fully_parallel_save` and `async_save` are off: with
LoRA they lose adapters). A state written on one layout is read on any other, because fused rows are
stored by component. `latest.json` names the state that is whole; it changes by a rename.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    TorchDistSaveShardedStrategy,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from train import checkpoint
from train.mcore.lora import Adapted

MOMENTS = ("exp_avg", "exp_avg_sq")
LATEST = "latest.json"


class SynchronousSave(TorchDistSaveShardedStrategy):
    """megatron's torch_dist files through torch.distributed.checkpoint itself.

    The stock strategy's writer forks and calls CUDA; this one has the same planner, so files and
    metadata are the same and the stock loader reads them.
    """

    def __init__(self) -> None:
        super().__init__("torch_dist", 1)

    def save(self, sharded_state_dict: Any, checkpoint_dir: Path) -> None:
        """Write this rank's part; returns when it is on disk."""
        keyed, _, _ = _replace_state_dict_keys_with_sharded_keys(
            sharded_state_dict, self.keep_only_main_replica
        )
        save_distributed(
            mcore_to_pyt_state_dict(keyed, False),
            storage_writer=FileSystemWriter(checkpoint_dir),
            planner=MCoreSavePlanner(
                dedup_replicated_tensors=not self.keep_only_main_replica, flatten_state_dict=False
            ),
        )


def save(folder: Path, step: int, adapted: list[Adapted], optimizer: torch.optim.Optimizer,
         record: dict[str, Any]) -> None:
    """Write the state after `step`; collective. `record` is rank 0's, plain values."""
    target, first = folder / f"step-{step:06d}", dist.get_rank() == 0
    if first:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
    dist.barrier()
    dist_checkpointing.save(
        _sharded(adapted, optimizer), str(target), sharded_strategy=SynchronousSave()
    )
    dist.barrier()
    if first:
        checkpoint.write_json(folder / LATEST, record | {"folder": target.name})
        for other in folder.glob("step-*"):
            if other != target:
                shutil.rmtree(other)


def latest(folder: Path) -> dict[str, Any] | None:
    """The record of the newest whole state, or None. Collective: rank 0's view counts."""
    found: list[Any] = [None]
    if dist.get_rank() == 0 and (folder / LATEST).is_file():
        found = [json.loads((folder / LATEST).read_text(encoding="utf-8"))]
    dist.broadcast_object_list(found, src=0)
    return found[0]


def amend(folder: Path, record: dict[str, Any]) -> None:
    """Replace the record of the newest state; rank 0 alone calls it."""
    found = json.loads((folder / LATEST).read_text(encoding="utf-8"))
    checkpoint.write_json(folder / LATEST, found | record)


def load(folder: Path, adapted: list[Adapted], optimizer: torch.optim.Optimizer,
         step: int) -> None:
    """Fill adapter and optimiser from a state, whatever layout wrote it; collective."""
    for item in adapted:  # AdamW makes its state at the first step; give the loader its tensors
        for _, parameter in item.halves():
            state = optimizer.state[parameter]
            state["step"] = torch.tensor(float(step))
            for moment in MOMENTS:
                state[moment] = torch.zeros_like(parameter)
    loaded = dist_checkpointing.load(_sharded(adapted, optimizer), str(folder))
    with torch.no_grad():
        for item in adapted:
            for half, parameter in item.halves():
                parameter.copy_(_joined(loaded, f"{item.key}.{half}"))
                for moment in MOMENTS:
                    key = f"optimizer.{moment}.{item.key}.{half}"
                    optimizer.state[parameter][moment].copy_(_joined(loaded, key))


def _sharded(adapted: list[Adapted], optimizer: torch.optim.Optimizer) -> dict[str, ShardedTensor]:
    found: dict[str, ShardedTensor] = {}
    for item in adapted:
        for half, parameter in item.halves():
            found |= _parts(item, half, f"{item.key}.{half}", parameter.detach())
            for moment in MOMENTS:
                tensor = optimizer.state[parameter].get(moment, torch.zeros_like(parameter))
                found |= _parts(item, half, f"optimizer.{moment}.{item.key}.{half}", tensor)
    return found


def _parts(item: Adapted, half: str, key: str, tensor: Tensor) -> dict[str, ShardedTensor]:
    """A tensor as megatron's shards: one, or one a component of a fused matrix."""
    if item.routed:
        group = parallel_state.get_expert_model_parallel_group()
        copy = parallel_state.get_expert_data_parallel_rank()
        return {key: ShardedTensor.from_rank_offsets(
            key, tensor, (0, group.rank(), group.size()), replica_id=(0, 0, copy))}
    tp = parallel_state.get_tensor_model_parallel_rank()
    world = parallel_state.get_tensor_model_parallel_world_size()
    copy = parallel_state.get_data_parallel_rank(with_context_parallel=True)
    if half != item.layer.sharded:
        return {key: ShardedTensor.from_rank_offsets(key, tensor, replica_id=(0, tp, copy))}
    axis = 1 if item.layer.row else 0
    pieces = [tensor]
    if axis == 0 and item.rows is not None:
        pieces = list(tensor.split([rows // world for rows in item.rows]))
    names = [key] if len(pieces) == 1 else [f"{key}.{number}" for number in range(len(pieces))]
    return {
        name: ShardedTensor.from_rank_offsets(
            name, piece.contiguous(), (axis, tp, world), replica_id=(0, 0, copy)
        )
        for name, piece in zip(names, pieces, strict=True)
    }


def _joined(loaded: dict[str, Any], key: str) -> Tensor:
    if key in loaded:
        whole: Tensor = loaded[key]
        return whole
    count = sum(name.startswith(f"{key}.") for name in loaded)
    return torch.cat([loaded[f"{key}.{number}"] for number in range(count)])
