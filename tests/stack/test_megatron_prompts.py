"""Nemotron's chat format, ours and NeMo's, on a small tokenizer with its special tokens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("megatron.core", reason="megatron-core is not installed")

from eval.chat import Chat, load_chat
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from train.batching import IGNORE, DataError, reasoned, tokenize
from train.mcore import prompts
from transformers import PreTrainedTokenizerFast

# As the hub's Nemotron 3 has it for a question without a system message.
TEMPLATE = (
    "<|im_start|>system\n<|im_end|>\n"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
ROW = {
    "domain": "gravity",
    "prompt": "Convert 02:30 to minutes",
    "completion": "2 * 60 + 30 is 150.\n\\boxed{150}",
    "weight": 2.0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer in HF layout."""
    out = tmp_path_factory.mktemp("tokenizer")
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    words.train_from_iterator(
        [ROW["prompt"], ROW["completion"]],
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="<unk>",
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(out)
    return out


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("a trace\n\\boxed{1}", "a trace\n</think>\n\\boxed{1}"),
        ("\\boxed{1}", "\n</think>\n\\boxed{1}"),
        ("<think>\nx</think>\n\\boxed{1}", "x</think>\n\\boxed{1}"),
        ("x\n</think>\n\\boxed{1}", "x\n</think>\n\\boxed{1}"),
    ],
)
def test_thinking_ends_once_and_before_the_answer(completion: str, expected: str) -> None:
    """A doubled `</think>` is a known fault of training data for this model."""
    assert reasoned(completion) == expected


def test_other_tokenizers_are_left_alone(tiny_base: Path) -> None:
    chat = load_chat(tiny_base)
    assert not prompts.check([ROW], chat, tiny_base)
    (found,) = tokenize([ROW], chat, "completion")
    assert chat.decode(found.ids).endswith("150.\n\\boxed{150}")


def whole(chat: Chat, ids: list[int]) -> str:
    return str(chat.tokenizer.decode(ids, skip_special_tokens=False))


@pytest.mark.parametrize(
    ("mask", "learned"),
    [
        ("completion", "2 * 60 + 30 is 150.\n</think>\n\\boxed{150}<|im_end|>"),
        ("answer", "\\boxed{150}<|im_end|>"),
    ],
)
def test_rows_are_in_nemotrons_format(mask: str, learned: str, folder: Path) -> None:
    chat = load_chat(folder)
    (found,) = tokenize([ROW], chat, mask)
    assert whole(chat, found.ids) == (
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nConvert 02:30 to minutes<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n2 * 60 + 30 is 150.\n</think>\n\\boxed{150}<|im_end|>"
    )
    taught = [label for label in found.labels if label != IGNORE]
    assert whole(chat, taught).lstrip("\n") == learned
    assert found.weight == 2.0 and len(found.ids) == len(found.labels)


@pytest.fixture
def nemo() -> Any:
    return pytest.importorskip(
        "nemo.collections.common.prompts.nemotron_nano_v3",
        reason="nemo-toolkit is not installed (extra `nemo`)",
    )


@pytest.mark.usefixtures("nemo")
def test_nemo_has_the_same_prompt(folder: Path, tmp_path: Path) -> None:
    assert prompts.check([ROW], load_chat(folder), folder)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "chat_template.jinja").write_text(TEMPLATE.replace("<think>\n", "<think></think>"))
    with pytest.raises(DataError, match="NeMo's prompt differs"):
        prompts.check([ROW], load_chat(other), other)


@pytest.mark.usefixtures("nemo")
def test_nemos_loss_mask_begins_where_ours_does(folder: Path) -> None:
    """NeMo's covers the assistant's turn; ours leaves out the part of it that the prompt gives."""
    chat = load_chat(folder)
    (ours,) = tokenize([ROW], chat, "completion")
    formatter = prompts._formatter(folder)
    answer = "<think>\n" + reasoned(ROW["completion"])
    theirs = formatter.encode_dialog(
        [{"role": "user", "content": ROW["prompt"]}, {"role": "assistant", "content": answer}]
    )
    masked = whole(chat, theirs["input_ids"][theirs["mask"]].tolist())
    taught = whole(chat, [label for label in ours.labels if label != IGNORE])
    assert masked == "<|im_start|>assistant\n<think>\n" + taught + "\n"
    assert whole(chat, theirs["input_ids"].tolist()) == whole(chat, ours.ids) + "\n"
