"""The adapter of trainer=megatron: where it sits, and that others load exactly what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("megatron.core", reason="megatron-core is not installed")

import torch
from eval.adapter import base_shapes, load_adapter
from eval.chat import load_chat
from eval.hf import HfDecoder, open_model
from peft import PeftModel
from safetensors.torch import load_file, save_file
from train.mcore import export, lora, model
from train.peft_format import ModelError, check_loadable
from train.targets import TargetError

from tests.stack.mcore_support import LORA, adapted, built, one_rank, save_peft, tokens

__all__ = ["one_rank"]

pytestmark = pytest.mark.usefixtures("one_rank")
CLOSE = 1e-5
ROOT = "base_model.model.backbone.layers."


@pytest.mark.parametrize("which", ["nemotron_base", "dense_base"])
def test_peft_gives_the_logits_of_the_exported_adapter(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    base: Path = request.getfixturevalue(which)
    network, config, found = adapted(base)
    ids = tokens()
    ours = model.logits(network, ids)
    folder = save_peft(tmp_path / "adapter", found, config)
    bare = open_model(base, torch.float32).eval()
    with torch.no_grad():
        without = bare(ids).logits
        theirs = PeftModel.from_pretrained(bare, folder).eval()(ids).logits
    assert (ours - without).abs().max() > 0.1  # the adapter does something
    assert (ours - theirs).abs().max() < CLOSE


def test_names_are_those_of_the_files_and_the_trusted_check_accepts_them(
    nemotron_base: Path, tmp_path: Path
) -> None:
    _, config, found = adapted(nemotron_base)
    folder = save_peft(tmp_path / "adapter", found, config)
    names = set(load_file(folder / "adapter_model.safetensors"))
    assert all(name.startswith(ROOT) for name in names)
    assert f"{ROOT}0.mixer.in_proj.lora_A.weight" in names
    assert f"{ROOT}1.mixer.shared_experts.up_proj.lora_B.weight" in names
    assert not any("mtp." in name for name in names)  # vLLM has no such layers
    loaded = load_adapter(folder, base_shapes(nemotron_base))
    assert len(loaded.pairs) * 2 == len(names)
    written = json.loads((folder / "adapter_config.json").read_text())
    assert written["target_modules"] == sorted({name.split(".")[-3] for name in names})


def test_every_saved_tensor_is_loaded(nemotron_base: Path) -> None:
    """Pitfall: under transformers 5 peft drops adapters of single experts without a word."""
    _, config, found = adapted(nemotron_base)
    shapes = {name: tuple(t.shape) for name, t in export.gather(found, config).items()}
    check_loadable(nemotron_base, LORA, shapes)
    expert = f"{ROOT}1.mixer.experts.0.up_proj.lora_"
    extra = shapes | {f"{expert}A.weight": (4, 64), f"{expert}B.weight": (32, 4)}
    with pytest.raises(ModelError, match=r"would load \d+ tensors where 26 are saved.*experts"):
        check_loadable(nemotron_base, LORA, extra)
    name = f"{ROOT}0.mixer.in_proj.lora_B.weight"
    with pytest.raises(ModelError, match="in_proj"):
        check_loadable(nemotron_base, LORA, shapes | {name: (1, 4)})


def test_peft_drops_an_experts_adapter_silently_and_eval_merges_it(
    nemotron_base: Path, tmp_path: Path
) -> None:
    """The reason for the check above: should this fail one day, peft has changed."""
    _, config, found = adapted(nemotron_base)
    folder = save_peft(tmp_path / "adapter", found, config)
    tensors = load_file(folder / "adapter_model.safetensors")
    ids = tokens()
    with torch.no_grad():
        bare = open_model(nemotron_base, torch.float32).eval()
        before = PeftModel.from_pretrained(bare, folder).eval()(ids).logits
    a, b = torch.ones(4, 64), torch.ones(32, 4)
    tensors[f"{ROOT}1.mixer.experts.3.up_proj.lora_A.weight"] = a
    tensors[f"{ROOT}1.mixer.experts.3.up_proj.lora_B.weight"] = b
    save_file(tensors, folder / "adapter_model.safetensors")
    with torch.no_grad():
        bare = open_model(nemotron_base, torch.float32).eval()
        after = PeftModel.from_pretrained(bare, folder).eval()(ids).logits
    assert torch.equal(before, after)
    decoder = HfDecoder(nemotron_base, "cpu")
    weight = decoder.model.get_parameter("model.layers.1.mixer.experts.up_proj")
    whole = weight.clone()
    with decoder.merged(load_adapter(folder, base_shapes(nemotron_base))):
        assert torch.allclose(weight[3], whole[3] + 2 * b @ a)
        assert torch.equal(weight[:3], whole[:3])
    assert torch.equal(weight, whole)


def test_out_proj_is_refused_by_peft_and_merged_by_eval(
    nemotron_base: Path, tmp_path: Path
) -> None:
    """Pitfall: peft refuses out_proj for Mamba models, at load too; `all` leaves it out."""
    network, config, found = adapted(nemotron_base, ["in_proj", "out_proj"])
    folder = save_peft(tmp_path / "adapter", found, config)
    with pytest.raises(ValueError, match="out_proj"):
        PeftModel.from_pretrained(open_model(nemotron_base, torch.float32), folder)
    adapter = load_adapter(folder, base_shapes(nemotron_base))
    decoder, ids = HfDecoder(nemotron_base, "cpu"), tokens()
    with decoder.merged(adapter), torch.no_grad():
        merged = decoder.model(ids).logits
    assert (merged - model.logits(network, ids)).abs().max() < CLOSE
    _, _, every = adapted(nemotron_base)
    assert not any("out_proj" in item.modules for item in every)


def test_all_reaches_every_kind_of_layer(nemotron_base: Path) -> None:
    """Pitfall: peft's own default for Nemotron-H is attention alone, and the loss hardly moves."""
    _, _, found = adapted(nemotron_base)
    names = [f"{item.stem}{module}" for item in found for module in item.modules]
    assert set(names) == {
        "layers.0.mixer.in_proj",
        "layers.1.mixer.shared_experts.up_proj",
        "layers.1.mixer.shared_experts.down_proj",
        "layers.2.mixer.q_proj",
        "layers.2.mixer.k_proj",
        "layers.2.mixer.v_proj",
        "layers.2.mixer.o_proj",
        "layers.3.mixer.up_proj",
        "layers.3.mixer.down_proj",
        "layers.4.mixer.in_proj",
        "layers.5.mixer.shared_experts.up_proj",
        "layers.5.mixer.shared_experts.down_proj",
    }
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("targets", "count"),
    [("attention", 2), ("mlp", 6), (["in_proj"], 2), (["o_proj", "down_proj"], 4)],
)
def test_targets_of_the_recipe(targets: Any, count: int, nemotron_base: Path) -> None:
    network, _, found = adapted(nemotron_base, targets)
    assert len(found) == count
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * count and all("lora_" in name for name in trained)


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        (["gate_proj"], "no module gate_proj; the base has down_proj, in_proj"),
        (["q_proj", "in_proj"], "q_proj, k_proj, v_proj are one matrix in megatron-core"),
    ],
)
def test_targets_that_cannot_be(targets: Any, reason: str, nemotron_base: Path) -> None:
    config = model.read_config(nemotron_base)
    with pytest.raises(TargetError, match=reason):
        lora.targets(config, targets)


def test_the_start_depends_on_the_seed_alone(nemotron_base: Path) -> None:
    _, config, found = adapted(nemotron_base)
    _, _, again = adapted(nemotron_base)
    assert all(
        torch.equal(a.layer.lora_a, b.layer.lora_a) for a, b in zip(found, again, strict=True)
    )
    other = lora.inject(built(nemotron_base)[0], config, LORA, seed=4)
    assert not torch.equal(found[0].layer.lora_a, other[0].layer.lora_a)
    assert all(not item.layer.lora_b.any() for item in other)


def test_the_hf_decoder_is_generate_and_leaves_the_base_as_it_was(
    nemotron_base: Path, tmp_path: Path
) -> None:
    _, config, found = adapted(nemotron_base)
    folder = save_peft(tmp_path / "adapter", found, config)
    adapter, chat = load_adapter(folder, base_shapes(nemotron_base)), load_chat(nemotron_base)
    prompts = [row[:size].tolist() for row, size in zip(tokens(4), (9, 20, 9, 33), strict=True)]
    decoder = HfDecoder(nemotron_base, "cpu")
    bare = decoder.generate(None, prompts, 8, chat.eos_ids, chat.pad_id)
    ours = decoder.generate(adapter, prompts, 8, chat.eos_ids, chat.pad_id)
    assert decoder.generate(None, prompts, 8, chat.eos_ids, chat.pad_id) == bare != ours
    network = PeftModel.from_pretrained(open_model(nemotron_base, torch.float32), folder).eval()
    for prompt, output in zip(prompts, ours, strict=True):
        for end in range(len(output)):  # greedy, without any cache
            with torch.no_grad():
                logits = network(torch.tensor([prompt + output[:end]])).logits[0, -1]
            assert int(logits.argmax()) == output[end]
