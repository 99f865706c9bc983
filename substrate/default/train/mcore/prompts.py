"""Nemotron's chat format, checked against NeMo's own prompt formatter where it is installed.

What is trained and asked is the checkpoint's own template (eval.chat); `train.batching` closes the
`<think>` that its prompt opens. nemo-toolkit has an independent copy of the format, made for
training. Where it is installed, a run whose questions would look different to it does not start.
The result of a run never depends on whether it is installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.chat import Chat

from train.batching import DataError

SPECIAL = ("<|im_start|>", "<|im_end|>", "<think>")
CHECKED = 32  # rows; the format does not depend on the row
PACKAGES = ("nemo", "lhotse")


def check(rows: Sequence[dict[str, Any]], chat: Chat, base: Path) -> bool:
    """Compare prompts token by token; False where there is nothing to compare: the checkpoint does
    not speak this format, or NeMo is not installed.

    Raises:
        DataError: NeMo's prompt is not the one that will be trained.
    """
    known = all(chat.tokenizer.token_to_id(word) is not None for word in SPECIAL)
    if not known or any(importlib.util.find_spec(name) is None for name in PACKAGES):
        return False
    formatter = _formatter(base)  # takes seconds
    asked = chat.encode([chat.prompt(row["prompt"]) for row in rows[:CHECKED]])
    for row, question in zip(rows, asked, strict=False):
        turns = [{"role": "user", "content": row["prompt"]}]
        prompt = formatter.encode_dialog(turns)["input_ids"].tolist()
        if prompt != question.ids:
            raise DataError(
                f"{base}: NeMo's prompt differs from the checkpoint's chat template, which the "
                f"evaluation uses: {chat.tokenizer.decode(prompt, skip_special_tokens=False)!r}"
            )
    return True


def _formatter(base: Path) -> Any:
    from nemo.collections.common.prompts.nemotron_nano_v3 import NemotronNanoV3PromptFormatter
    from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer

    return NemotronNanoV3PromptFormatter(AutoTokenizer(str(base), use_fast=True))
