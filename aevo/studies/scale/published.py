"""Published runs that the time model is compared with, and published counts.

All from NVIDIA-NeMo/Megatron-Bridge, examples/model_verification_cards and
docs/performance-summary.md, as of October 2026. Its TFLOP/s count three forward
passes a step, whatever is frozen, and take Mamba's inner width as twice the model's.
"""

from dataclasses import dataclass, replace

from aevo.studies.scale import steptime
from aevo.studies.scale.adapter import Adapter, leaves
from aevo.studies.scale.architecture import Architecture, known
from aevo.studies.scale.assumptions import Assumptions
from aevo.studies.scale.hardware import GB200, GPUS, Gpu
from aevo.studies.scale.parallel import BRIDGE, Division
from aevo.studies.scale.steptime import Step


@dataclass(frozen=True)
class LoraRun:
    """A measured LoRA run: seconds a step, positions a second and GPU."""

    what: str
    model: Architecture
    gpu: Gpu
    layout: Division
    seconds: float
    rate: float

    def estimate(self, assumed: Assumptions) -> Step:
        """What the time model says of it."""
        return steptime.of(self.model, self.layout, self.gpu, assumed)


@dataclass(frozen=True)
class Throughput:
    """A measured pretraining run: TFLOP/s and positions a second, of a GPU."""

    what: str
    model: Architecture
    row_tokens: int
    tflops: float
    rate: float

    def estimate(self) -> float:
        """TFLOP/s by our count of FLOPs, at the published rate."""
        return 3 * steptime.forward_flops(self.model, self.row_tokens, mtp=True) * self.rate / 1e12


def lightning() -> Architecture:
    """Nemotron 3.5 Lightning: Nano's architecture with multi-token prediction."""
    return known("nemotron3_nano_30b").model_copy(
        update={"name": "nemotron_3_5_lightning", "mtp": "*E", "mtp_passes": 2}
    )


def lora_runs() -> list[LoraRun]:
    """LoRA, rank 32, bf16, one row a microbatch, multi-token prediction on."""
    small, large = lightning(), known("nemotron3_super_120b")
    h100 = _layout(small, ranks=8, rows=128, row_tokens=4096, tensor=2)
    return [
        LoraRun("3.5 Lightning 30B, 8 H100, TP2 EP8", small, GPUS["h100"], h100, 16.900, 3877.8),
        LoraRun("3.5 Lightning 30B, 8 GB200, TP2 EP8", small, GB200, h100, 19.230, 3407.9),
        LoraRun(
            "3 Super 120B, 16 GB200, TP8 EP16",
            large,
            GB200,
            _layout(large, ranks=16, rows=16, row_tokens=8192),
            12.699,
            645.1,
        ),
    ]


def throughputs() -> list[Throughput]:
    """Pretraining, all weights."""
    small, large, ultra = (
        lightning(),
        known("nemotron3_super_120b"),
        known("nemotron3_ultra_550b"),
    )
    if small.mamba:  # their count: an inner width of twice the model's
        wide = small.mamba.model_copy(update={"heads": 2 * small.hidden // small.mamba.head_dim})
        small = small.model_copy(update={"mamba": wide})
    return [
        Throughput("3.5 Lightning 30B, 16 H100", small, 8192, 399.580, 14195.1),
        Throughput("3 Super 120B, 64 H100", large, 4096, 248.610, 2969.3),
        Throughput("3 Ultra 550B, 256 GB300", ultra, 8192, 1281.0, 3552.0),
    ]


def lora_on(model: Architecture, rank: int = 32) -> Adapter:
    """The adapter of Megatron-Bridge's LoRA recipes: every linear layer that it names."""
    return Adapter(
        rank, leaves("all", model) | {"out_proj"}, routed=True, per_rank=True, fused=True
    )


def _layout(
    model: Architecture, ranks: int, rows: int, row_tokens: int, tensor: int | None = None
) -> Division:
    official = BRIDGE[model.hidden]
    found = Division(
        trainer="bridge",
        nodes=-(-ranks // 8),
        gpus=8,
        ranks=ranks,
        tensor=official[0],
        pipeline=official[1],
        expert=official[2],
        rows=rows,
        micro_rows=1,
        row_tokens=row_tokens,
        adapter=lora_on(model),
        adapter_bytes=2,
        main_bytes=12,
        shared_optimizer=True,
        mtp=True,
        recompute=official[3],
    )
    return replace(found, tensor=tensor) if tensor else found
