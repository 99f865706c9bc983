"""A base and a set of items, and what answers them inside of this process.

`auto` is eval.decode where it knows the architecture, else `hf`, which is transformers. With `vllm`
nothing is decoded here (eval.vllm), and no weights are loaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzles.text import asked

from eval.errors import EvaluationError
from eval.metric import extract, verify

if TYPE_CHECKING:
    from torch import Tensor

    from eval.adapter import Adapter
    from eval.chat import Chat
    from eval.hf import HfDecoder

DECODERS = ("auto", "hf", "vllm")
DTYPES = ("float32", "bfloat16")  # of `hf`


@dataclass
class Evaluator:
    """A base model and a set of items; adapters are scored one after another."""

    items: list[dict[str, Any]]
    base: Path
    config: dict[str, Any]
    chat: Chat
    shapes: dict[str, tuple[int, ...]]
    weights: dict[str, Tensor] | None  # None: not decoded by eval.decode
    transformers: HfDecoder | None
    max_new: int
    prompts: list[list[int]]

    def outputs(self, adapter: Adapter | None) -> list[str]:
        """The text that the model gives for each item.

        Raises:
            AdapterError: the adapter cannot be merged.
        """
        from eval.adapter import merge
        from eval.decode import LlamaDecoder

        eos = self.chat.eos_ids
        if self.transformers is not None:
            ids = self.transformers.generate(
                adapter, self.prompts, self.max_new, eos, self.chat.pad_id
            )
        else:
            weights = self.weights or {}
            if adapter is not None:
                weights = merge(weights, adapter)
            decoder = LlamaDecoder(self.config, weights, _device())
            ids = decoder.generate(self.prompts, self.max_new, eos)
        return [self.chat.decode(row) for row in ids]

    def predictions(self, adapter: Adapter | None) -> list[dict[str, Any]]:
        """One row an item: what was answered and whether it is right."""
        return self.judged(self.outputs(adapter))

    def judged(self, outputs: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of given answers, in the items' order."""
        rows = []
        for item, output in zip(self.items, outputs, strict=True):
            given = extract(output)
            rows.append(
                {
                    "id": item["id"],
                    "domain": item["domain"],
                    "output": output,
                    "answer_given": given,
                    "correct": verify(item["answer"], given),
                }
            )
        return rows


def load_evaluator(
    items: list[dict[str, Any]], base: Path, max_new: int, decoder: str = "auto",
    dtype: str = "float32",
) -> Evaluator:
    """Read base and tokenizer, and tokenise the items' prompts; `dtype` is of `hf`.

    Raises:
        EvaluationError, ChatError: one line.
    """
    from safetensors.torch import load_file

    from eval.adapter import base_shapes, weight_files
    from eval.chat import load_chat
    from eval.decode import supports

    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        shapes = base_shapes(base)
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{base}: {error}") from error
    weights: dict[str, Tensor] | None = None
    transformers: HfDecoder | None = None
    if decoder == "vllm":
        pass  # engines read the base themselves
    elif decoder == "hf" or not supports(config):
        from eval.hf import HfDecoder

        transformers = HfDecoder(base, _device(), dtype)
    else:
        weights = {}
        for path in weight_files(base):
            weights |= load_file(path)
    chat = load_chat(base)
    texts = [chat.prompt(asked(item["prompt"])) for item in items]
    prompts = [e.ids for e in chat.encode(texts)]
    return Evaluator(
        items, base, config, chat, shapes, weights, transformers, max_new, prompts
    )


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
