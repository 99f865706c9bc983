"""Phase 5: the exported adapter, merged by transformers, is what megatron-core trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from eval.adapter import base_shapes, load_adapter
from eval.hf import HfDecoder
from train import loop
from train.mcore import layout, model
from train.mcore.backend import MegatronBackend
from train.mcore.ranks import Group

from aevo.evaluate.adapters import check_adapter
from tests.bench.gpu import models
from tests.bench.gpu.phase import Phase

LIMITS = {"fp32": 1e-4, "bf16": 2e-2}
TYPES = {"fp32": "float32", "bf16": "bfloat16"}
STEPS = 10


def run(here: Phase) -> None:
    """Ten steps, export, merge; in both precisions."""
    loop.prepare_torch(1)
    with models.alone():
        for precision in LIMITS:
            _merged(here, precision)


def _merged(here: Phase, precision: str) -> None:
    settings = models.recipe(STEPS, 8)
    if precision == "fp32":
        base = models.tiny(here)  # whose weights are spread so that any error shows
        settings["train"]["lora"] |= {"targets": ["all", "out_proj", "experts", "lm_head"]}
    else:
        base = models.wide(here, models.SHORT)
    run_ = replace(models.a_run(here, base, settings), out=here.folder / precision)
    backend = MegatronBackend(run_, layout.Layout(precision=precision), here.device, Group())
    batch = models.rows(64, 8, 1505)
    for step in range(STEPS):
        backend.forward_backward(batch, step)
        backend.clip(1.0)
        backend.optimizer.step()
        backend.optimizer.zero_grad(set_to_none=True)
    folder = here.folder / precision / "adapter"
    folder.parent.mkdir(parents=True, exist_ok=True)
    backend.export(folder)
    ids = models.tokens(here.device)
    ours = model.logits(backend.model.eval(), ids)
    _accepted(here, folder, base, precision)
    decoder = HfDecoder(base, here.device.type, TYPES[precision])
    with torch.no_grad():
        without = decoder.model(ids, use_cache=False).logits
        with decoder.merged(load_adapter(folder, base_shapes(base))):
            theirs = decoder.model(ids, use_cache=False).logits
    moved = float((ours - without).abs().max())
    here.hold(f"{precision}: the adapter changes answers", moved > 0.01, moved)
    here.below(
        f"{precision}: logits merged and trained, relative",
        models.relative(theirs, ours),
        LIMITS[precision],
    )


def _accepted(here: Phase, folder: Path, base: Path, precision: str) -> None:
    loaded = load_adapter(folder, base_shapes(base))
    dead = [module for module, (_, b) in loaded.pairs.items() if not b.abs().max() > 0]
    here.hold(f"{precision}: every lora_B is alive", not dead, ", ".join(dead[:5]) or "yes")
    report = check_adapter(folder, base)
    here.hold(f"{precision}: the evaluator accepts it", report.kind == "lora", report.tensors)
