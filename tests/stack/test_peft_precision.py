"""trainer=peft in bf16 and with layers computed anew: what is learned is that of fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train import model
from train.batching import Example, collate
from train.peft_backend import PeftBackend, Precision, execute
from train.peft_format import ModelError
from train.run import Run
from train.sft import main

Recipe = dict[str, Any]
TARGETS = {"tiny_base": "all", "nemotron_base": ["all", "experts"]}


def backend(base: Path, recipe: Recipe, out: Path, **how: str) -> PeftBackend:
    settings = recipe | {"train": recipe["train"] | {"batch_size": 4}}
    return PeftBackend(Run(settings, out, base, out, seed=7, threads=1), Precision(**how))


def stepped(trainer: PeftBackend) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one batch, with every B drawn."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in trainer.parameters.items():
            if "lora_B" in name:
                parameter.normal_(0, 0.05, generator=generator)
    ids = torch.randint(3, 1500, (4, 40), generator=generator).tolist()
    loss = trainer.forward_backward(collate([Example(row, row, 1.0) for row in ids], 0), 0)
    gradients = {name: p.grad for name, p in trainer.parameters.items() if p.grad is not None}
    return float(loss), {name: gradient.clone() for name, gradient in gradients.items()}


@pytest.mark.parametrize("which", list(TARGETS))
def test_layers_computed_anew_and_bf16_learn_what_fp32_learns(
    which: str, request: pytest.FixtureRequest, small_recipe: Recipe, tmp_path: Path
) -> None:
    base: Path = request.getfixturevalue(which)
    lora = small_recipe["train"]["lora"] | {"targets": TARGETS[which]}
    recipe = small_recipe | {"train": small_recipe["train"] | {"lora": lora}}
    loss, gradients = stepped(backend(base, recipe, tmp_path))
    again, same = stepped(backend(base, recipe, tmp_path, recompute="full"))
    assert again == pytest.approx(loss, abs=1e-6) and same.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(same[name], gradient, atol=1e-6), name
    trainer = backend(base, recipe, tmp_path, name="bf16", recompute="full")
    assert all(p.dtype == torch.float32 for p in trainer.parameters.values())
    frozen = [p for p in trainer.model.parameters() if not p.requires_grad and p.ndim > 1]
    assert all(p.dtype == torch.bfloat16 for p in frozen)
    half, near = stepped(trainer)
    assert half == pytest.approx(loss, rel=0.02) and half != loss
    mine = torch.cat([near[name].flatten() for name in gradients])
    theirs = torch.cat([gradient.flatten() for gradient in gradients.values()])
    assert torch.nn.functional.cosine_similarity(mine, theirs, 0) > 0.98


def test_layers_are_computed_anew_in_the_backward_pass(
    tiny_base: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    counts = []
    for recompute in ("none", "full"):
        trainer = backend(tiny_base, small_recipe, tmp_path, recompute=recompute)
        calls: list[int] = []
        layer: Any = trainer.model.get_base_model().get_decoder().layers[0].mlp
        layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        stepped(trainer)
        counts.append(len(calls))
    assert counts == [1, 2]


def test_a_run_in_bf16_leaves_an_adapter_in_fp32_and_says_how(
    tiny_base: Path, small_recipe: Recipe, train_path: Path, tmp_path: Path
) -> None:
    settings = small_recipe | {"train": small_recipe["train"] | {"steps": 12, "checkpoints": 1}}
    run = Run(settings, train_path, tiny_base, tmp_path, seed=7, threads=1)
    done = execute(run, Precision("bf16", "full"))
    assert done["status"] == "ok"
    assert done["precision"] == {"name": "bf16", "recompute": "full"}
    tensors = load_file(tmp_path / "checkpoints" / "step-000012" / "adapter_model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    assert any(t.abs().max() > 0 for name, t in tensors.items() if "lora_B" in name)


def test_an_unknown_precision_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--precision", "fp8"])
    assert "invalid choice" in capsys.readouterr().err


def test_what_transformers_cannot_compute_anew_is_refused() -> None:
    class Base:
        supports_gradient_checkpointing = False
        config = type("Config", (), {"model_type": "odd"})

    class Wrapped:
        def get_base_model(self) -> Base:
            return Base()

    with pytest.raises(ModelError, match="none for odd"):
        model.checkpoint_layers(Wrapped())  # type: ignore[arg-type]
