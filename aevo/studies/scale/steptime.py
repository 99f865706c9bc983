"""Seconds of a training step: matrix work at a share of the GPU's peak, and the host's time.

    step = (microbatches + pipeline - 1)
           x (layers of a stage x layer_ms + FLOPs of a GPU / (peak x mfu))

LoRA at one row a microbatch waits for the host: published runs take as long on a GPU of 2.5 times
the peak. Forward FLOPs are Megatron-Bridge's count (flop_utils.py);
of the backward pass a frozen matrix has one half, the gradient of its input.
"""

from dataclasses import dataclass

from aevo.studies.scale.architecture import Architecture, layer
from aevo.studies.scale.assumptions import Assumptions
from aevo.studies.scale.hardware import Gpu
from aevo.studies.scale.parallel import Division

SCAN = 7  # FLOPs of the scan a channel and state, as Megatron-Bridge counts them


@dataclass(frozen=True)
class Step:
    """Of one step: seconds, positions, FLOPs of all GPUs, `mfu`: share of their peak in use."""

    seconds: float
    tokens: int
    flops: float
    mfu: float

    @property
    def rate(self) -> float:
        """Positions a second, all GPUs."""
        return self.tokens / self.seconds


def of(model: Architecture, layout: Division, gpu: Gpu, assumed: Assumptions) -> Step:
    """The estimate for one layout on one kind of GPU."""
    flops = step_flops(model, layout)
    passes = layout.microbatches + layout.pipeline - 1
    layers = (len(model.pattern) + (mtp_layers(model) if layout.mtp else 0)) / layout.pipeline
    # A microbatch's work is shared by tensor-parallel ranks and stages.
    each = flops / layout.microbatches / layout.ranks
    peak = gpu.peak(layout.number_bytes)
    seconds = passes * (layers * assumed.layer_ms / 1000 + each / (peak * assumed.kernel_mfu))
    tokens = layout.rows * layout.row_tokens
    return Step(seconds, tokens, flops, flops / seconds / layout.ranks / peak)


def mtp_layers(model: Architecture) -> int:
    """Layers of all passes of multi-token prediction."""
    return len(model.mtp) * model.mtp_passes


def forward_flops(model: Architecture, row_tokens: int, mtp: bool = False) -> float:
    """Of one position in a row of `row_tokens`, matrices, attention over what stands before it and
    the scan."""
    kinds = model.pattern + (model.mtp * model.mtp_passes if mtp else "")
    passes = model.mtp_passes if mtp else 0
    head = model.hidden * model.vocab * (1 + passes)
    joined = 2 * model.hidden**2 * passes
    work = sum(
        weight.used for kind in kinds for weight in layer(model, kind) if weight.group != "norm"
    )
    found = 2.0 * (work + head + joined)
    found += 2 * model.heads * model.head_dim * row_tokens * kinds.count("*")
    if model.mamba:
        found += SCAN * model.mamba.inner * model.mamba.state * kinds.count("M")
    return found


def step_flops(model: Architecture, layout: Division) -> float:
    """What a step needs: forward, gradients of inputs, the adapter's own, and what is computed
    anew."""
    forward = forward_flops(model, layout.row_tokens, layout.mtp)
    again = 0.0
    if "moe" in layout.recompute:
        again = 2.0 * model.layers("E") * sum(weight.used for weight in layer(model, "E"))
    if "experts" in layout.recompute:
        again = (
            2.0
            * model.layers("E")
            * sum(weight.used for weight in layer(model, "E") if weight.split == "expert")
        )
    if "layer" in layout.recompute:
        again = forward
    trained = sum(
        layout.adapter.of(weight) / weight.count * weight.active
        for kind in model.pattern
        for weight in layer(model, kind)
    )
    tokens = layout.rows * layout.row_tokens
    return tokens * (2 * forward + again + 6 * trained)
