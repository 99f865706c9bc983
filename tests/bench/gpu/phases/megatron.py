"""Phase 3: trainer=megatron at true widths: what a step takes, and where the time goes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from train import loop
from train.mcore import layout, mixer
from train.mcore.backend import MegatronBackend
from train.mcore.ranks import Group

from tests.bench.gpu import models
from tests.bench.gpu.phase import Phase

NAMES = {"M": "Mamba", "E": "experts", "*": "attention"}


def run(here: Phase) -> None:
    """Rows of 384 and 4,096 tokens, one and sixteen a pass, both scans."""
    loop.prepare_torch(1)
    with models.alone():
        base = models.wide(here)
        settings = models.recipe(4, 16)
        sizes = layout.Layout(precision="bf16", recompute="selective")
        backend = MegatronBackend(models.a_run(here, base, settings), sizes, here.device, Group())
        fast = mixer.kernels(here.device.type)
        if fast.scan is None:
            here.skip("steps with Triton's scan", "mamba_ssm is not there, or there is no GPU")
        for scan in ("torch",) if fast.scan is None else ("triton", "torch"):
            own = fast if scan == "triton" else mixer.Kernels()
            mixer.kernels = partial(_kernels, own)  # type: ignore[assignment]
            for length, count, each in ((384, 16, 16), (384, 16, 1), (4096, 4, 1), (4096, 16, 16)):
                if scan == "torch" and each == 16 and length == 4096 and not here.dry:
                    here.skip("16 x 4,096 tokens a pass, torch's scan", "it does not fit")
                    continue
                length = length if not here.dry else 32 * (1 + (length > 384))
                _steps(here, backend, settings, scan, length, count, each)
            _layers(here, backend, scan, 64 if here.dry else 4096)


def _kernels(own: mixer.Kernels, device: str) -> mixer.Kernels:
    return own


def _steps(
    here: Phase,
    backend: MegatronBackend,
    settings: dict[str, Any],
    scan: str,
    length: int,
    count: int,
    each: int,
) -> None:
    backend.layout = replace(backend.layout, micro_batch=each)
    told = models.estimate(
        backend.run.base, settings, models.card(here), trainer="megatron", rows=count,
        micro_rows=each, row_tokens=length, number_bytes=2,
        recompute=frozenset({"scan", "experts"}),
    )  # fmt: skip
    batch = models.rows(length, count, 1505)

    step = partial(models.step, backend, batch)
    what = f"megatron bf16, {scan}, {count} x {length}, {each} a pass"
    try:
        first = step()
        peak = models.peak(here, step)
        took = models.seconds(here, step, 1 if here.dry else 2)
        last = step()
    except torch.OutOfMemoryError:
        models.free()
        here.skip(what, "out of memory")
        return
    here.hold(f"{what}: the loss falls", last < first, f"{first:.4f} to {last:.4f}")
    here.figure(**models.measured(
        what, told, took, count * length, len(models.WIDE), -(-count // each), peak_gib=peak,
        busy=_busy(here, step, took),
    ))  # fmt: skip


def _busy(here: Phase, step: Any, took: float) -> float | None:
    """Share of a step in which a kernel runs."""
    if here.device.type != "cuda":
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        step()
        torch.cuda.synchronize()
    total = sum(getattr(event, "self_device_time_total", 0.0) for event in seen.key_averages())
    return total / 1e6 / took


def _layers(here: Phase, backend: MegatronBackend, scan: str, length: int) -> None:
    """Forward and backward of the first layer of each kind, alone."""
    hidden = backend.config.hidden_size
    for kind, name in NAMES.items():
        layer = backend.model.decoder.layers[models.WIDE.index(kind)]
        states = torch.randn(length, 1, hidden, device=here.device, dtype=torch.bfloat16)
        states.requires_grad_()

        def through(layer: Any = layer, states: Any = states) -> None:
            out = layer(hidden_states=states, attention_mask=None)
            out = out[0] if isinstance(out, tuple) else out
            out.backward(torch.ones_like(out))

        took = models.seconds(here, through)
        here.figure(what=f"one layer of {name}, {scan}, 1 x {length}", layer_ms=1000 * took)
        backend.optimizer.zero_grad(set_to_none=True)
