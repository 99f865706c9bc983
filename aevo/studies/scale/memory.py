"""Bytes that a GPU holds while it trains a LoRA: what is there from the first step to the last, and
what one microbatch leaves for its backward pass.

Base weights are frozen: no gradients, no optimiser state, and a linear layer keeps its input only
where an adapter reads it. The scan's own kernels (mamba-ssm) compute their states anew.
"""

from dataclasses import dataclass

from aevo.studies.scale.architecture import Architecture
from aevo.studies.scale.assumptions import Assumptions
from aevo.studies.scale.parallel import Division

GIB = 2**30
FP32 = 4


@dataclass(frozen=True)
class Memory:
    """Bytes of the fullest GPU. `activations` of layers; `logits` with their gradients; `dispatch`:
    tokens on their way to experts and back; `reserve`: what the allocator holds beyond, and CUDA's
    own."""

    weights: float
    adapter: float
    gradients: float
    optimiser: float
    activations: float
    logits: float
    dispatch: float
    reserve: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


def of(model: Architecture, layout: Division, assumed: Assumptions) -> Memory:
    """The memory of the GPU that needs most: of the first pipeline stage or of the last."""
    stages = layout.stages(model)
    return max(
        (_of_stage(model, layout, assumed, number) for number in {0, len(stages) - 1}),
        key=lambda found: found.total,
    )


def _of_stage(model: Architecture, layout: Division, assumed: Assumptions, stage: int) -> Memory:
    held = layout.stages(model)[stage]
    trained = sum(layout.adapter_share(weight) for weight in held)
    spread = layout.data if layout.shared_optimizer else 1
    last = stage == layout.pipeline - 1
    size = -(-len(model.pattern) // layout.pipeline)
    pattern = model.pattern[stage * size : (stage + 1) * size]
    if last and layout.mtp:
        pattern += model.mtp * model.mtp_passes
    per_token = [saved(model, layout, assumed, kind) for kind in pattern]
    again = max((saved(model, layout, assumed, kind, anew=False) for kind in pattern), default=0.0)
    parts = {
        "weights": sum(weight.parameters * layout.share(weight) for weight in held)
        * layout.number_bytes,
        "adapter": trained * layout.adapter_bytes,
        "gradients": trained * FP32,
        "optimiser": trained * layout.main_bytes / spread,
        "activations": layout.micro_tokens
        * (sum(per_token) * layout.queued(stage) + (again if layout.recompute else 0.0)),
        "logits": _logits(model, layout) if last else 0.0,
        "dispatch": _dispatch(model, layout, assumed) if "E" in pattern else 0.0,
    }
    reserve = (assumed.reserve - 1) * sum(parts.values()) + assumed.context_gb * GIB
    return Memory(**parts, reserve=reserve if layout.gpus else 0.0)


def saved(
    model: Architecture, layout: Division, assumed: Assumptions, kind: str, anew: bool = True
) -> float:
    """Bytes a position that a layer keeps for its backward pass.

    Args:
        anew: False: what it would keep if nothing were computed anew.
    """
    recompute = layout.recompute if anew else frozenset[str]()
    tensor, size, adapted = layout.tensor, layout.number_bytes, layout.adapter.leaves
    # Between layers: the norm's input and its output, from which router and adapters learn.
    between = (1 if "layernorm" in recompute and kind != "M" else 2) * model.hidden
    between += model.hidden if model.family == "llama" else 0  # its norm scales a copy
    if "layer" in recompute or (kind == "E" and "moe" in recompute):
        return model.hidden / tensor * size
    inside, fp32 = 0.0, 0.0
    if kind == "M" and model.mamba:
        mixer = model.mamba
        inside = 2 * mixer.convolved + 2 * mixer.inner + mixer.heads
        inside += mixer.inner if "out_proj" in adapted else 0
        if "scan" in recompute:
            inside -= mixer.convolved + mixer.inner  # what in_proj gave, and no more
        elif layout.trainer == "megatron":
            fp32 = 5 * mixer.inner  # its gated norm is plain torch, in fp32
    elif kind == "*":
        # Queries, keys, values, and the result as attention and as o_proj see it.
        inside = (3 * model.heads + 2 * model.kv_heads) * model.head_dim
    elif kind == "-":
        inside = (4 if model.family == "llama" else 2) * (model.ffn or 0)
    elif model.experts:
        own = model.experts
        inside = 2 * own.shared_ffn + (own.latent or 0)
        copies = own.active * (assumed.imbalance if layout.expert > 1 else 1.0)
        # Inputs of frozen experts are not kept; their outputs are, for the router's weights.
        wide = own.latent or model.hidden
        inside += copies * (
            wide
            if "experts" in recompute
            else (own.ffn + wide) * (2 if layout.adapter.routed else 1)
        )
        fp32 = 3 * own.count  # scores of all experts
    return (between + inside) / tensor * size + fp32 / tensor * FP32


def _logits(model: Architecture, layout: Division) -> float:
    """Of one microbatch, were every position learned: as they are, in fp32, and what the loss keeps
    of them."""
    size = layout.number_bytes
    if layout.trainer == "bridge":  # vocab-parallel loss: one fp32 buffer each, and MTP's own
        each = (size + FP32) * (1 + (model.mtp_passes if layout.mtp else 0))
    else:
        each = size + (FP32 if size < FP32 else 0) + 2 * FP32
    return layout.micro_tokens * model.vocab / layout.tensor * each


def _dispatch(model: Architecture, layout: Division, assumed: Assumptions) -> float:
    """Buffers of one layer's exchange, there and back, forward or backward."""
    if model.experts is None or layout.expert == 1:
        return 0.0
    tokens = layout.micro_tokens / layout.tensor
    if layout.all_gather:
        return 2 * tokens * layout.expert * model.hidden * layout.number_bytes
    width = model.experts.latent or model.hidden
    return 4 * tokens * model.experts.active * assumed.imbalance * width * layout.number_bytes
