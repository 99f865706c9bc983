"""Phase 2: trainer=peft, tiny and wide."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from train import loop
from train.peft_backend import PeftBackend, execute

from tests.bench.gpu import models
from tests.bench.gpu.phase import Phase


def run(here: Phase) -> None:
    """A run of the tiny model, then steps of two wide layers."""
    loop.prepare_torch(1)
    settings = models.recipe(4, 8)
    done = execute(models.a_run(here, models.tiny(here), settings, "tiny"))
    here.hold("a run of the tiny model", done["status"] == "ok", f"loss {done['final_loss']:.3f}")
    for length, count in ((384, 16), (4096, 1)):
        _steps(here, models.wide(here, models.SHORT), 96 if here.dry else length, count)
        models.free()


def _steps(here: Phase, base: Path, length: int, count: int) -> None:
    settings = models.recipe(4, count)
    told = models.estimate(
        base, settings, models.card(here), trainer="peft", rows=count, micro_rows=count,
        row_tokens=length, number_bytes=4,
    )  # fmt: skip
    backend = PeftBackend(models.a_run(here, base, settings))
    batch = models.rows(length, count, 1505)

    step = partial(models.step, backend, batch)
    here.hold(f"the loss falls, wide, {length} tokens", _falls([step() for _ in range(4)]))
    peak = models.peak(here, step)
    took = models.seconds(here, step, 2)
    here.figure(**models.measured(
        f"peft fp32, 2 layers, {count} x {length}", told, took, count * length,
        len(models.SHORT), 1, peak_gib=peak,
    ))  # fmt: skip


def _falls(losses: list[float]) -> bool:
    return losses[-1] < losses[0]
