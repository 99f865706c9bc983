"""Adapters on everything that may carry one: routed and shared experts, in_proj, out_proj, lm_head;
trained, exported, judged and merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("megatron.core", reason="megatron-core is not installed")

import torch
import yaml
from eval.adapter import AdapterError, base_shapes, load_adapter
from eval.hf import HfDecoder
from safetensors.torch import load_file
from train import model as peft_model
from train import peft_backend
from train.mcore import grouped, model
from train.mcore.layout import Layout
from train.peft_format import ModelError
from train.run import Run
from train.targets import resolve

from aevo.evaluate.adapters import check_adapter
from aevo.evaluate.untrusted import IntegrityError
from tests.stack.mcore_support import LORA, WIDE, Recipe, adapted, one_rank, save_peft, tokens
from tests.stack.mcore_support import run_here as train

__all__ = ["one_rank"]

pytestmark = pytest.mark.usefixtures("one_rank")
CLOSE = 1e-4  # logits in fp32, absolute
GROUPS = (
    "in_proj",
    "out_proj",
    "q_proj",
    "o_proj",
    "mixer.up_proj",
    "shared_experts.down_proj",
    "experts.0.up_proj",
    "experts.3.down_proj",
    "lm_head",
)
PEFT = WIDE | {"targets": ["all", "experts", "lm_head"]}  # peft refuses out_proj


def with_lora(recipe: Recipe, steps: int, lora: dict[str, Any]) -> Recipe:
    """The recipe with such an adapter."""
    changed: Recipe = yaml.safe_load(yaml.safe_dump(recipe))
    changed["train"] |= {"steps": steps, "lora": lora, "checkpoints": 1}
    return changed


def pairs(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(A, B) of an adapter's modules, by name."""
    tensors = load_file(folder / "adapter_model.safetensors")
    return {
        name.removesuffix(".lora_A.weight"): (a, tensors[name.replace("lora_A", "lora_B")])
        for name, a in tensors.items()
        if name.endswith(".lora_A.weight")
    }


def merged(base: Path, folder: Path) -> torch.Tensor:
    """The evaluator's logits with the adapter."""
    decoder = HfDecoder(base, "cpu")
    with decoder.merged(load_adapter(folder, base_shapes(base))), torch.no_grad():
        logits: torch.Tensor = decoder.model(tokens()).logits
    return logits


def test_the_evaluator_merges_what_megatron_exports(nemotron_base: Path, tmp_path: Path) -> None:
    network, config, found = adapted(nemotron_base, settings=WIDE)
    folder = save_peft(tmp_path / "adapter", found, config, WIDE)
    ours = model.logits(network, tokens())
    assert (ours - model.logits(adapted(nemotron_base)[0], tokens())).abs().max() > 0.1
    assert (merged(nemotron_base, folder) - ours).abs().max() < CLOSE
    names = pairs(folder)
    for end in GROUPS:
        assert any(name.endswith(end) for name in names), end
    assert "base_model.model.backbone.layers.1.mixer.experts.2.up_proj" in names
    assert "base_model.model.lm_head" in names
    assert check_adapter(folder, nemotron_base).rank == 6


def test_ranks_by_group_are_in_the_configuration_and_scaled_alike(
    nemotron_base: Path, tmp_path: Path
) -> None:
    """vLLM reads r and lora_alpha alone; peft the patterns, too."""
    _, config, found = adapted(nemotron_base, settings=WIDE)
    folder = save_peft(tmp_path / "adapter", found, config, WIDE)
    written = json.loads((folder / "adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"]) == (6, 12)
    assert written["rank_pattern"][r"experts.\d+.up_proj"] == 2
    assert written["rank_pattern"]["shared_experts.up_proj"] == 4
    for name, rank in written["rank_pattern"].items():
        assert written["alpha_pattern"][name] / rank == 2
    assert {len(a) for a, _ in pairs(folder).values()} == {2, 4, 6}


@pytest.mark.parametrize(
    "change",
    [
        {"rank_pattern": {r"experts.\d+.up_proj": 3}},  # not the tensors'
        {"alpha_pattern": {}},  # another scale
        {"rank_pattern": {"(a+)+b": 2}, "alpha_pattern": {"(a+)+b": 4}},  # a true pattern
        {"rank_pattern": {"lm_head": 64}, "alpha_pattern": {"lm_head": 128}},
        {"rank_pattern": ["lm_head"]},
        {"r": 33, "lora_alpha": 66},
    ],
)
def test_ranks_that_do_not_hold_are_refused_by_both_checks(
    change: dict[str, Any], nemotron_base: Path, tmp_path: Path
) -> None:
    _, config, found = adapted(nemotron_base, settings=WIDE)
    folder = save_peft(tmp_path / "adapter", found, config, WIDE)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(AdapterError):
        load_adapter(folder, base_shapes(nemotron_base))
    with pytest.raises(IntegrityError):
        check_adapter(folder, nemotron_base)


@pytest.mark.parametrize("trainer", ["megatron", "peft"])
def test_every_target_has_a_gradient_and_keeps_its_rank(
    trainer: str, short_recipe: Recipe, train_path: Path, nemotron_base: Path, tmp_path: Path
) -> None:
    """Pitfalls: out_proj without a gradient (fused kernels read its weight); factors of experts
    that collapse to rank 1. An expert that got no token yet has no gradient."""
    lora = WIDE if trainer == "megatron" else PEFT
    for steps in (1, 12):
        recipe, out = with_lora(short_recipe, steps, lora), tmp_path / str(steps)
        if trainer == "megatron":
            train(recipe, train_path, nemotron_base, out)
        else:
            peft_backend.execute(Run(recipe, train_path, nemotron_base, out, seed=7, threads=1))
        found = pairs(out / "checkpoints" / f"step-{steps:06d}")
        assert len(found) == 13 + 16 + (2 if trainer == "megatron" else 0)
        still = [name for name, (_, b) in found.items() if not b.any()]
        assert not still, still
        for name, (a, b) in found.items() if steps > 1 else ():
            values = torch.linalg.svdvals(b @ a)
            assert values[1] > 1e-3 * values[0], name
        assert len(
            load_adapter(
                out / "checkpoints" / f"step-{steps:06d}", base_shapes(nemotron_base)
            ).pairs
        ) == len(found)


def test_pefts_own_logits_are_those_of_its_merged_adapter(
    nemotron_base: Path, tmp_path: Path
) -> None:
    """Routed experts are one fused parameter to peft, and a pair each in the file."""
    from train.checkpoint import save_adapter

    network = peft_model.load(nemotron_base, PEFT, 3, "cpu").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in peft_model.trainable(network).items():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=generator)
        ours = network(tokens()).logits
        with network.disable_adapter():
            bare = network(tokens()).logits
    folder = tmp_path / "step-000001"
    save_adapter(network, folder)
    assert (ours - bare).abs().max() > 0.1
    assert (merged(nemotron_base, folder) - ours).abs().max() < CLOSE
    assert check_adapter(folder, nemotron_base).rank == 6
    assert not any("base_layer" in name for name in pairs(folder))  # nor the whole head


def test_what_peft_cannot_adapt_is_refused_in_one_line(nemotron_base: Path) -> None:
    for change, reason in (
        ({"targets": ["all", "mamba"]}, "out_proj"),
        ({"targets": ["experts"], "dropout": 0.1}, "lora_dropout"),
    ):
        with pytest.raises(ModelError, match=reason):
            peft_model.load(nemotron_base, LORA | change, 3, "cpu")


def test_a_base_without_experts_says_so(dense_base: Path, tiny_base: Path) -> None:
    for base in (dense_base, tiny_base):
        with pytest.raises(ModelError, match=r"no module experts\.up_proj"):
            peft_model.load(base, LORA | {"targets": ["all", "experts"]}, 3, "cpu")


def test_groups_and_modules_may_be_listed_together() -> None:
    present = ["q_proj", "in_proj", "out_proj", "up_proj", "experts.up_proj", "lm_head"]
    assert resolve("all", present, "nemotron_h") == ["in_proj", "q_proj", "up_proj"]
    assert resolve(["all", "mamba", "experts"], present, "nemotron_h") == [
        "in_proj",
        "q_proj",
        "up_proj",
        "out_proj",
        "experts.up_proj",
    ]


def test_experts_in_bf16_of_any_rank_train(
    short_recipe: Recipe, train_path: Path, nemotron_base: Path, tmp_path: Path
) -> None:
    """grouped_mm wants rows of 16 bytes: factors of rank 3 are filled up. Whether it can be used
    is found out inside of what is computed anew."""
    grouped._takes.cache_clear()
    lora = WIDE | {"ranks": {"experts": 3}}
    recipe = with_lora(short_recipe, 4, lora)
    found = []
    for name, layout in (
        ("bf16", Layout(precision="bf16", recompute="selective")),
        ("fp32", Layout()),
    ):
        train(recipe, train_path, nemotron_base, tmp_path / name, layout)
        found.append(
            [
                json.loads(line)["loss"]
                for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
            ]
        )
    assert found[0] == pytest.approx(found[1], rel=0.05)
