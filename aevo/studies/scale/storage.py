"""Sizes on disk, and what a training or an evaluation reads and writes.

The base is read whole by whoever identifies it (`base_digest`: trainer and evaluator, once each;
trainer=bridge goes by the record of its import), then by every process what it needs of it. Caches
of nodes and file servers make it less.
"""

from dataclasses import dataclass
from typing import Any

from aevo.studies.scale.architecture import Architecture, parameters
from aevo.studies.scale.memory import FP32
from aevo.studies.scale.parallel import Division

STATE_STEPS = 25  # substrate: train/loop.py writes the state so often at least,
STATE_SECONDS = 20.0  # and so often;
BRIDGE_STEPS = 10  # train/nemo_bridge/overrides.py so often, and keeps
BRIDGE_STATES = 2
MOMENTS = 3  # parameter, and Adam's two moments


@dataclass(frozen=True)
class Storage:
    """Bytes. Of the resume state `states` are written by a run and `last` are left."""

    base: float
    adapter: float
    state: float
    states: int
    last: int
    checkpoints: int
    trained: int

    @property
    def left(self) -> float:
        """What the job of a finished run leaves: adapters and the last states."""
        return self.checkpoints * self.adapter + self.last * self.state

    @property
    def kept(self) -> float:
        """What is kept of the run: that, and the judged copies of the adapters."""
        return self.left + self.checkpoints * self.adapter

    @property
    def written(self) -> float:
        """What a run writes in all."""
        return 2 * self.checkpoints * self.adapter + self.states * self.state


def of(
    model: Architecture, layout: Division, recipe: dict[str, Any], seconds: float | None
) -> Storage:
    """Sizes for one configuration.

    Args:
        recipe: the `train` section;
        seconds: of a step; None: as fast as STATE_STEPS steps in STATE_SECONDS.
    """
    steps, checkpoints = int(recipe["steps"]), int(recipe["checkpoints"])
    trained = trained_parameters(model, layout)
    # A checkpoint comes with a state; between them every 25 steps and every 20 seconds.
    timed = 0.0 if seconds is None else steps * seconds / max(STATE_SECONDS, seconds)
    bridge = layout.trainer == "bridge"
    states = steps / BRIDGE_STEPS if bridge else max(timed, steps / STATE_STEPS)
    each = layout.adapter_bytes + layout.main_bytes if bridge else FP32 * MOMENTS
    return Storage(
        base=base_bytes(model),
        adapter=layout.adapter.file_bytes(model, FP32),
        state=trained * each,
        states=int(max(states, checkpoints)),
        last=BRIDGE_STATES if bridge else 1,
        checkpoints=checkpoints,
        trained=trained,
    )


def base_bytes(model: Architecture) -> float:
    """Of the checkpoint's tensors, multi-token prediction included; the router's bias is fp32."""
    experts = (model.pattern + model.mtp).count("E")
    bias = model.experts.count * experts if model.experts and model.bytes == 2 else 0
    return parameters(model, mtp=True) * model.bytes + 2 * bias


def trained_parameters(model: Architecture, layout: Division) -> int:
    """Of the whole model; fewer than the file has, where matrices share an adapter."""
    return sum(
        layout.adapter.trained(weight, layout.expert)
        for stage in layout.stages(model)
        for weight in stage
    )


def read_by_training(model: Architecture, layout: Division) -> float:
    """Bytes of the base that all processes of a training read: its digest, then their parts. A
    process of trainer=megatron reads matrices whole and keeps its shard of them."""
    whole = base_bytes(model)  # read for the digest
    if layout.trainer not in ("megatron", "bridge"):
        return 2 * whole
    per_rank = 0.0
    for stage in layout.stages(model):
        for weight in stage:
            share = layout.share(weight)
            if layout.trainer == "megatron" and weight.split == "tensor":
                share = 1.0
            per_rank += weight.parameters * share * model.bytes
    parts = per_rank * layout.ranks / layout.pipeline
    return parts if layout.trainer == "bridge" else whole + parts


def read_by_evaluation(model: Architecture, engines: int) -> float:
    """Bytes of the base that an evaluation reads: its digest, then each engine the weights."""
    return (1 + engines) * base_bytes(model)
