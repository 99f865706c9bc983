"""Phase 1: megatron-core, transformers and peft compute the same; torch's scan is Triton's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from eval.hf import open_model
from torch import Tensor
from train import loop
from train.mcore import backend, export, layout, mixer, model, ssd, weights
from train.mcore.ranks import Group
from train.peft_backend import PeftBackend

from tests.bench.gpu import models
from tests.bench.gpu.phase import Phase

EXACT, HALF, SCAN = 1e-4, 5e-2, 2e-2
B_VALUES = 0.05  # training starts B at zero, where half of the gradients are zero


def run(here: Phase) -> None:
    """fp32 on the tiny model, bf16 on the wide one, and the scans."""
    loop.prepare_torch(1)
    with models.alone():
        _exact(here)
        _wide(here)
    for packed in (False, True):
        _scans(here, packed)


def _exact(here: Phase) -> None:
    base, settings = models.tiny(here), models.recipe(2, 4)
    ids = models.tokens(here.device)
    with torch.no_grad():
        theirs = open_model(base, torch.float32).to(here.device).eval()(ids).logits
    ours = model.logits(_mcore(here, base, "fp32"), ids)
    here.below("logits, fp32, megatron-core and transformers", _most(ours, theirs), EXACT)

    run_ = models.a_run(here, base, settings)
    peft = PeftBackend(run_)
    mega = backend.MegatronBackend(run_, layout.Layout(), here.device, Group())
    with torch.no_grad():
        for number, item in enumerate(mega.adapted):
            _draw(item.layer.lora_a, 2 * number)
            _draw(item.layer.lora_b, 2 * number + 1)
    _give(peft, export.gather(mega.adapted, mega.config))
    batch = models.rows(64, 4, 1505)
    losses = [float(b.forward_backward(batch, 0)) for b in (peft, mega)]
    here.below("loss, fp32, peft and megatron", abs(losses[0] - losses[1]), EXACT)
    theirs_by_name = _shared(_named({n: p.grad for n, p in peft.parameters.items()}))
    ours_by_name = _gradients(mega)
    here.hold("the same matrices have gradients", theirs_by_name.keys() == ours_by_name.keys())
    worst = max(models.relative(ours_by_name[name], grad) for name, grad in theirs_by_name.items())
    here.below("LoRA gradients, fp32, the matrix that differs most", worst, EXACT)


def _wide(here: Phase) -> None:
    base = models.wide(here)
    ids = models.tokens(here.device, 2, 200)
    reference = open_model(base, torch.bfloat16).to(here.device).eval()
    with torch.no_grad():
        theirs = reference(ids).logits.float().cpu()
    del reference
    models.free()
    ours = model.logits(_mcore(here, base, "bf16"), ids).float().cpu()
    here.below("logits, bf16, wide, relative", models.relative(ours, theirs), HALF)


def _mcore(here: Phase, base: Path, precision: str) -> Any:
    config = model.read_config(base)
    network = model.build(config, layout.Layout(precision=precision))
    weights.load(network, config, base)
    return network.to(here.device).eval()


def _draw(matrix: Tensor, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix.copy_(torch.empty(matrix.shape).normal_(0, B_VALUES, generator=generator))


def _named(found: dict[str, Any]) -> dict[str, Tensor]:
    """By layer, module and half, as the checkpoint's files call them."""
    return {k.replace(".default", "").split("layers.", 1)[1]: v for k, v in found.items()}


def _shared(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """megatron-core has one A for q, k and v, whose gradient is the sum of their own."""
    found: dict[str, Tensor] = {}
    for name, value in gradients.items():
        key = re.sub(r"[qkv]_proj\.lora_A", "qkv.lora_A", name)
        found[key] = found[key] + value if key in found else value
    return found


def _give(peft: PeftBackend, tensors: dict[str, Tensor]) -> None:
    given = _named(dict(tensors))
    with torch.no_grad():
        for name, parameter in _named(dict(peft.parameters)).items():
            parameter.copy_(given[name])


def _gradients(mega: backend.MegatronBackend) -> dict[str, Tensor]:
    """Each half's gradient under its published name: `gather` reads values, so they take turns."""
    kept = [(p, p.detach().clone()) for _, _, p in mega._halves()]
    with torch.no_grad():
        for _, _, parameter in mega._halves():
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
        found = _named({k: v.clone() for k, v in export.gather(mega.adapted, mega.config).items()})
        for parameter, value in kept:
            parameter.copy_(value)
    # one A for q, k and v is exported three times
    return {
        re.sub(r"[qkv]_proj\.lora_A", "qkv.lora_A", name): value for name, value in found.items()
    }


def _scans(here: Phase, packed: bool) -> None:
    """torch's scan against Triton's, or where that is absent against the plain recurrence."""
    length, heads, width, state, groups = (
        (256, 4, 16, 16, 2) if here.dry else (1024, 64, 64, 128, 8)
    )
    generator = torch.Generator().manual_seed(2)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(here.device)

    values = [drawn(1, length, heads, width), torch.rand(1, length, heads).to(here.device) * 0.1,
              -torch.rand(heads).to(here.device) - 0.1,
              drawn(1, length, groups, state), drawn(1, length, groups, state)]  # fmt: skip
    segments = None
    if packed:
        segments = (torch.arange(length, device=here.device)[None] * 3) // length
    kernel = mixer.kernels(here.device.type).scan
    other = "Triton" if kernel else "the recurrence"

    def triton(x: Tensor, dt: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
        assert kernel is not None
        order = None if segments is None else segments.to(torch.int32)
        return kernel(x, dt, decay, b, c, 128, seq_idx=order)

    def plain(x: Tensor, dt: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return recurrence(x, dt, decay, b, c, segments)

    def ours(x: Tensor, dt: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return ssd.scan(x, dt, decay, b, c, 64 if here.dry else 128, segments)

    found = [_through(way, values) for way in (ours, triton if kernel else plain)]
    worst = max(models.relative(a, b) for a, b in zip(*found, strict=True))
    what = "packed" if packed else "one sequence"
    here.below(f"scan, torch and {other}, {what}, forward and gradients", worst, SCAN)
    if not kernel:
        here.skip(f"Triton's scan, {what}", "mamba_ssm is not there, or there is no GPU")


def recurrence(
    x: Tensor, dt: Tensor, decay: Tensor, b: Tensor, c: Tensor, segments: Tensor | None
) -> Tensor:
    """h_t = exp(dt_t decay) h_{t-1} + dt_t b_t x_t, y_t = c_t h_t, one position after the other."""
    per = x.shape[2] // b.shape[2]
    b, c = b.repeat_interleave(per, 2), c.repeat_interleave(per, 2)
    held = torch.zeros(x.shape[0], *x.shape[2:], b.shape[3], device=x.device)
    out = []
    for t in range(x.shape[1]):
        keep = torch.exp(dt[:, t] * decay)[..., None, None]
        if segments is not None and t:
            keep = keep * (segments[:, t] == segments[:, t - 1])[:, None, None, None]
        held = held * keep + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, :, None]
        out.append((held * c[:, t, :, None]).sum(-1))
    return torch.stack(out, 1)


def _through(way: Any, values: list[Tensor]) -> list[Tensor]:
    inputs = [value.detach().clone().requires_grad_() for value in values]
    y = way(*inputs)
    y.backward(torch.ones_like(y))
    return [y.detach(), *(one.grad for one in inputs)]


def _most(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).abs().max())
