"""Sizes on disk, and what a training or an evaluation reads and writes.

The base is read whole by whoever identifies it (`base_digest`: trainer and evaluator, once each),
then by every process what it needs of it. Caches of nodes and file servers make it less.
"""

from dataclasses import dataclass
from typing import Any

from aevo.scale.architecture import Architecture, parameters
from aevo.scale.layout import Layout

STATE_STEPS = 25  # substrate: train/loop.py writes the state so often at least,
STATE_SECONDS = 20.0  # and so often
MOMENTS = 3  # parameter, and Adam's two moments


@dataclass(frozen=True)
class Storage:
    """Bytes. `state` replaces the one before it; `states` are written by a run."""

    base: float
    adapter: float
    state: float
    states: int
    checkpoints: int
    trained: int

    @property
    def kept(self) -> float:
        """What a finished run leaves: adapters as the worker's job wrote them and the judged
        copies, and the last state."""
        return 2 * self.checkpoints * self.adapter + self.state

    @property
    def written(self) -> float:
        """What a run writes in all."""
        return 2 * self.checkpoints * self.adapter + self.states * self.state


def of(model: Architecture, layout: Layout, recipe: dict[str, Any],
       seconds: float | None) -> Storage:
    """Sizes for one configuration.

    Args:
        recipe: the `train` section;
        seconds: of a step; None: as fast as STATE_STEPS steps in STATE_SECONDS.
    """
    steps, checkpoints = int(recipe["steps"]), int(recipe["checkpoints"])
    trained = trained_parameters(model, layout)
    # A checkpoint comes with a state; between them every 25 steps and every 20 seconds.
    timed = 0.0 if seconds is None else steps * seconds / max(STATE_SECONDS, seconds)
    states = checkpoints if layout.trainer == "bridge" else int(max(timed, steps / STATE_STEPS,
                                                                    checkpoints))
    each = 2 + 12 if layout.trainer == "bridge" else 4 * MOMENTS
    return Storage(
        base=base_bytes(model),
        adapter=layout.adapter.file_bytes(model, layout.adapter_bytes),
        state=trained * each, states=states, checkpoints=checkpoints, trained=trained)


def base_bytes(model: Architecture) -> float:
    """Of the checkpoint's tensors, multi-token prediction included; the router's bias is fp32."""
    experts = (model.pattern + model.mtp).count("E")
    bias = model.experts.count * experts if model.experts and model.bytes == 2 else 0
    return parameters(model, mtp=True) * model.bytes + 2 * bias


def trained_parameters(model: Architecture, layout: Layout) -> int:
    """Of the whole model; fewer than the file has, where matrices share an adapter."""
    return sum(layout.adapter.trained(weight, layout.expert)
               for stage in layout.stages(model) for weight in stage)


def read_by_training(model: Architecture, layout: Layout) -> float:
    """Bytes of the base that all processes of a training read: its digest, then their parts. A
    process of trainer=megatron reads matrices whole and keeps its shard of them."""
    whole = base_bytes(model)
    if layout.trainer not in ("megatron", "bridge"):
        return 2 * whole
    per_rank = 0.0
    for stage in layout.stages(model):
        for weight in stage:
            share = layout.share(weight)
            if layout.trainer == "megatron" and weight.split == "tensor":
                share = 1.0
            per_rank += weight.parameters * share * model.bytes
    return whole + per_rank * layout.ranks / layout.pipeline


def read_by_evaluation(model: Architecture) -> float:
    """Bytes of the base that an evaluation reads: its digest, then the weights."""
    return 2 * base_bytes(model)
