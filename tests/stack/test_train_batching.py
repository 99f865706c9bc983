"""What is learned, in which order, and that packing changes nothing but the shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from base.tokenizer import EOS
from eval.chat import Chat, load_chat
from train import model
from train.batching import IGNORE, DataError, Example, collate, pack, plan, read_rows, tokenize

ROWS: list[dict[str, Any]] = [
    {"domain": "unit", "prompt": "2 -> 6\n3 -> ?", "completion": "k=3\n\\boxed{9}", "weight": 2.0},
    {"domain": "bits", "prompt": "0011 -> 1100\n0101 -> ?", "completion": "\\boxed{1010}"},
]


@pytest.fixture(scope="module")
def chat(tiny_base: Path) -> Chat:
    return load_chat(tiny_base)


def learned(chat: Chat, example: Example) -> str:
    ids = [label for label in example.labels if label != IGNORE]
    return str(chat.tokenizer.decode(ids, skip_special_tokens=False))


def test_masks_say_what_is_learned(chat: Chat) -> None:
    def first(mask: str) -> str:
        return learned(chat, tokenize(ROWS, chat, mask)[0])

    assert first("completion") == "k=3\n\\boxed{9}" + EOS
    assert first("answer") == "\\boxed{9}" + EOS
    assert first("all").startswith("<|user|>2 -> 6")


def test_a_row_without_a_weight_counts_one(chat: Chat) -> None:
    assert [e.weight for e in tokenize(ROWS, chat, "completion")] == [2.0, 1.0]


def test_plan_is_a_function_of_the_seed_and_covers_every_row_each_pass() -> None:
    steps = plan(rows=10, batch=5, steps=4, seed=1, shuffle=True)
    assert steps == plan(rows=10, batch=5, steps=4, seed=1, shuffle=True)
    assert steps != plan(rows=10, batch=5, steps=4, seed=2, shuffle=True)
    assert sorted(steps[0] + steps[1]) == sorted(steps[2] + steps[3]) == list(range(10))
    assert plan(rows=10, batch=5, steps=2, seed=1, shuffle=False)[1] == [5, 6, 7, 8, 9]


def test_packed_loss_and_gradients_equal_the_padded_ones(chat: Chat, tiny_base: Path) -> None:
    lora = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": "all"}
    network = model.load(tiny_base, lora, seed=0, device="cpu")
    examples = tokenize(ROWS * 3, chat, "all")
    padded, packed = collate(examples, chat.pad_id), pack(examples, chat.pad_id, 64)
    assert packed.ids.shape[0] < padded.ids.shape[0]
    assert packed.tokens == padded.tokens
    results = []
    for batch in (padded, packed):
        network.zero_grad()
        value = model.loss(network, batch)
        value.backward()
        gradient = torch.cat(
            [p.grad.flatten() for p in model.trainable(network).values() if p.grad is not None]
        )
        results.append((value.detach(), gradient))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-3, atol=1e-5)


def test_bad_rows_are_named_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps({"prompt": "x"}) + "\n")
    with pytest.raises(DataError, match=r"train.jsonl:2: lacks completion, domain"):
        read_rows(path)
    path.write_text("")
    with pytest.raises(DataError, match="no rows"):
        read_rows(path)


@pytest.mark.parametrize(
    ("targets", "count"), [("all", 14), ("attention", 8), ("mlp", 6), (["q_proj"], 2)]
)
def test_targets_choose_the_adapted_layers(
    tiny_base: Path, targets: str | list[str], count: int
) -> None:
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": targets}
    network = model.load(tiny_base, lora, seed=0, device="cpu")
    assert len(model.trainable(network)) == 2 * count


def test_an_unknown_target_is_named_beside_the_valid_ones(tiny_base: Path) -> None:
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["conv"]}
    with pytest.raises(model.ModelError, match=r"conv.*q_proj"):
        model.load(tiny_base, lora, seed=0, device="cpu")
