"""The fast decoder computes what transformers computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from base.pretrain import save
from eval import evaluate as evaluation
from eval.adapter import base_shapes, load_adapter, merge
from eval.chat import load_chat
from eval.decode import LlamaDecoder, supports
from eval.decoders import load_evaluator
from eval.files import read_items
from eval.hf import HfDecoder
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM


def small_llama(kv_heads: int, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        head_dim=16,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize(("kv_heads", "tied"), [(4, True), (4, False), (2, True), (1, False)])
def test_logits_equal_transformers(kv_heads: int, tied: bool) -> None:
    network = small_llama(kv_heads, tied)
    config = network.config.to_dict()
    assert supports(config)
    assert config["rope_parameters"]["rope_theta"] == 50000.0
    decoder = LlamaDecoder(config, network.state_dict())
    ids = torch.randint(0, 97, (5, 23))
    with torch.inference_mode():
        expected = network(input_ids=ids).logits[:, -1]
        torch.testing.assert_close(decoder.logits(ids), expected, rtol=1e-4, atol=1e-4)


def test_the_cache_and_leaving_sequences_change_nothing(tiny_base: Path) -> None:
    """Each token generated is the most likely one of the whole text before it."""
    network = LlamaForCausalLM.from_pretrained(tiny_base)
    decoder = LlamaDecoder(network.config.to_dict(), network.state_dict())
    chat = load_chat(tiny_base)
    prompts = [e.ids for e in chat.encode([chat.prompt(f"{n} -> ?") for n in range(10, 30)])]
    outputs = decoder.generate(prompts, 12, chat.eos_ids)
    assert len({len(row) for row in outputs}) > 1
    for prompt, output in zip(prompts, outputs, strict=True):
        for end in range(len(output)):
            ids = torch.tensor([prompt + output[:end]])
            assert int(decoder.logits(ids).argmax()) == output[end]


@pytest.mark.long(2)
def test_trained_adapter_gives_the_tokens_of_transformers(
    tiny_base: Path, trained: Path, dev_items: list[dict[str, Any]]
) -> None:
    folder = trained / "checkpoints" / "step-000060"
    chat = load_chat(tiny_base)
    prompts = [e.ids for e in chat.encode([chat.prompt(i["prompt"]) for i in dev_items])]
    config = LlamaConfig.from_pretrained(tiny_base).to_dict()
    weights = load_file(tiny_base / "model.safetensors")
    adapter = load_adapter(folder, base_shapes(tiny_base))
    decoder = LlamaDecoder(config, merge(weights, adapter))
    ours = decoder.generate(prompts, 32, chat.eos_ids)
    oracle = HfDecoder(tiny_base, "cpu")
    theirs = oracle.generate(adapter, prompts, 32, chat.eos_ids, chat.pad_id)
    assert ours == theirs
    peft = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tiny_base), folder)
    with oracle.merged(adapter), torch.no_grad():
        ids = torch.tensor([prompts[0]])
        merged, wrapped = oracle.model(ids).logits, peft(ids).logits
    assert torch.allclose(merged, wrapped, atol=1e-5)
    bare = LlamaDecoder(config, weights).generate(prompts, 32, chat.eos_ids)
    assert bare != ours  # the adapter does something


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "mistral"},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
    ],
)
def test_what_it_does_not_compute_it_does_not_claim(change: dict[str, Any]) -> None:
    assert not supports({"model_type": "llama", **change})


def test_prompts_and_ids_are_those_of_transformers(tiny_base: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(tiny_base)
    ours = load_chat(tiny_base)
    question = "A rule maps bit strings.\n00110101 -> 11001010\n12 -> ?"
    text = theirs.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    assert ours.prompt(question) == text
    ids = theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.encode([text])[0].ids == ids
    answer = theirs("\\boxed{12}", add_special_tokens=False)["input_ids"]
    assert ours.decode(answer) == "\\boxed{12}"


def test_untied_checkpoint_is_read_from_disk(tmp_path: Path, tiny_base: Path) -> None:
    network = small_llama(2, tied=False)
    save(network, load_chat(tiny_base).tokenizer, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" in weights
    assert base_shapes(tmp_path)["lm_head.weight"] == (97, 48)


def test_transformers_computes_in_half_precision_where_asked(
    tiny_base: Path, items_path: Path, tmp_path: Path
) -> None:
    few = tmp_path / "items.jsonl"
    few.write_text("".join(items_path.read_text().splitlines(keepends=True)[:2]))
    evaluator = load_evaluator(read_items(few), tiny_base, 8, "hf", "bfloat16")
    assert evaluator.transformers is not None
    assert evaluator.transformers.model.dtype == torch.bfloat16
    words = [
        "--items",
        few,
        "--base",
        tiny_base,
        "--out",
        tmp_path / "out",
        "--include-base",
        "--decoder",
        "hf",
        "--max-new",
        "8",
        "--dtype",
        "bfloat16",
    ]
    assert evaluation.main(list(map(str, words))) == 0
    record = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert (record["dtype"], record["max_new"]) == ("bfloat16", 8)
