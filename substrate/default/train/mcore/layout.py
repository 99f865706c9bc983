"""How a run is spread over processes: parallel sizes, precision, process groups."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from train.mcore.recompute import CHOICES

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class LayoutError(ValueError):
    """The parallel sizes do not fit each other, the model or the processes; one line."""


@dataclass(frozen=True)
class Layout:
    """Settings of conf/trainer/megatron.yaml; none of them changes what is learned beyond rounding.

    Expert tensor parallelism is always 1: LoRA on experts is wrong above it.
    """

    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    precision: str = "fp32"
    micro_batch: int = 0  # most rows a forward pass; 0: all of the rank's rows
    micro_tokens: int = 0  # most tokens a forward pass, padding included; 0: no limit
    recompute: str = "none"  # what the backward pass computes anew: train.mcore.recompute

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations; the adapter itself is always fp32."""
        return DTYPES[self.precision]


def start(layout: Layout, seconds: int = 1800) -> torch.device:
    """Join the process group that torchrun or srun set up, and build megatron's groups.

    A process that nobody started as a rank is a world of its own and opens no port. A process group
    that exists already is used as it is.

    Raises:
        LayoutError: the processes cannot be divided so.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    _check(layout, world)
    device = torch.device("cpu")
    backend = "gloo"
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) == world:
        # One machine: loopback. In the sandbox the host has a name that nothing resolves.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    limit = timedelta(seconds=seconds)
    if dist.is_initialized():
        pass
    elif world == 1:
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=limit)
    else:
        dist.init_process_group(backend, timeout=limit)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        expert_model_parallel_size=layout.expert,
        expert_tensor_parallel_size=1,
    )
    if device.type == "cuda":  # megatron's generators, which some of its layers ask for
        tensor_parallel.model_parallel_cuda_manual_seed(1)
    return device


def stop() -> None:
    """Leave the process groups, if there are any."""
    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()


def _check(layout: Layout, world: int) -> None:
    if layout.precision not in DTYPES:
        raise LayoutError(f"precision {layout.precision!r}: one of {', '.join(DTYPES)}")
    if layout.recompute not in CHOICES:
        raise LayoutError(f"recompute {layout.recompute!r}: one of {', '.join(CHOICES)}")
    model = layout.tensor * layout.pipeline
    if world % model:
        raise LayoutError(
            f"{world} processes cannot be divided into groups of tensor x pipeline = "
            f"{layout.tensor} x {layout.pipeline}"
        )
    if (world // layout.pipeline) % layout.expert:
        raise LayoutError(
            f"expert = {layout.expert} does not divide the {world // layout.pipeline} processes "
            "of a pipeline stage"
        )
