"""Answers of the adapter as it is now to training prompts, drawn at a temperature.

The fast decoder of the evaluation where it knows the architecture, with the adapter merged for the
moment, else transformers. The same adapter, prompts and seed give the same answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from eval.decode import LlamaDecoder, equal_length_groups, supports
from peft import PeftModel
from torch import Tensor

LORA = ".lora_"
WRAPPED = ".base_layer"
GROUP = 32  # prompts that transformers answers together


@dataclass(frozen=True)
class Answer:
    """Token ids without the end token, and whether that was reached."""

    ids: list[int]
    ended: bool


class SamplingDecoder(LlamaDecoder):
    """LlamaDecoder that draws the next token instead of taking the likeliest."""

    def __init__(self, config: dict[str, Any], weights: dict[str, Tensor], device: str,
                 temperature: float, seed: int) -> None:
        super().__init__(config, weights, device)
        self.temperature = temperature
        self.generator = torch.Generator(device).manual_seed(seed)

    def _choose(self, logits: Tensor) -> Tensor:
        shares = torch.softmax(logits / self.temperature, -1)
        return torch.multinomial(shares, 1, generator=self.generator).squeeze(1)


def sample(model: PeftModel, base: Path, prompts: Sequence[list[int]], eos_ids: Sequence[int],
           max_new: int, temperature: float, seed: int) -> list[Answer]:
    """One answer to each prompt, of at most `max_new` tokens; an answer cut off there has not
    ended."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    if supports(config):
        device = str(next(model.parameters()).device)
        decoder = SamplingDecoder(config, merged(model), device, temperature, seed)
        found = decoder.generate(prompts, max_new, eos_ids)
    else:
        found = _by_transformers(model, prompts, eos_ids, max_new, temperature, seed)
    return [Answer(ids, len(ids) < max_new) for ids in found]


@torch.no_grad()
def merged(model: PeftModel) -> dict[str, Tensor]:
    """The base's weights with the adapter added, by their names in the checkpoint."""
    causal: Any = model.get_base_model()
    weights = {name.replace(WRAPPED, ""): parameter.detach()
               for name, parameter in causal.named_parameters() if LORA not in name}
    for name, module in causal.named_modules():
        if hasattr(module, "get_delta_weight"):
            key = f"{name}.weight"
            weights[key] = weights[key] + module.get_delta_weight("default")
    return weights


@torch.no_grad()
def _by_transformers(model: PeftModel, prompts: Sequence[list[int]], eos_ids: Sequence[int],
                     max_new: int, temperature: float, seed: int) -> list[list[int]]:
    """By groups of equal length: padding to the left would reach a recurrent state."""
    device = next(model.parameters()).device
    found: list[list[int]] = [[] for _ in prompts]
    model.eval()
    with torch.random.fork_rng():  # dropout must not hang on what was sampled
        torch.manual_seed(seed)
        for group in equal_length_groups(prompts, GROUP):
            ids = torch.tensor([prompts[index] for index in group], device=device)
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new,
                do_sample=True, temperature=temperature, top_k=0, top_p=1.0,
                eos_token_id=list(eos_ids), pad_token_id=eos_ids[0],
            )
            for index, row in zip(group, out[:, ids.shape[1]:].tolist(), strict=True):
                end = next((n for n, token in enumerate(row) if token in eos_ids), len(row))
                found[index] = row[:end]
    model.train()
    return found
