"""Greedy decoding by transformers itself: any architecture it knows, as oracle and fallback.

Slow next to eval.decode, made for few items. The base is loaded once; an adapter is added to its
weights in memory and taken off again. Code shipped inside a model folder is never run
(`trust_remote_code` stays off).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from eval.adapter import MAX_RELATIVE_NORM, AdapterError
from eval.decode import equal_length_groups

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from eval.adapter import Adapter

# Where names in memory differ from those in the checkpoint's files: (memory, file), by model type.
ROOTS = {"nemotron_h": ("model.", "backbone.")}
PREFIX = "base_model.model."
EXPERT = re.compile(r"(.*\.experts\.)(\d+)\.(\w+)")  # transformers holds a layer's experts as one


def open_model(base: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The base on CPU.

    transformers clamps Mamba's time step at `time_step_min`, which is for initialisation, and does
    not read the config's `time_step_limit`; vLLM and megatron-core go by the limit. So does this.

    Raises:
        OSError, ValueError, KeyError: not a model folder.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # stderr is for errors
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    limit = getattr(model.config, "time_step_limit", None)
    for module in model.modules():
        if limit is not None and hasattr(module, "time_step_limit"):
            setattr(module, "time_step_limit", tuple(limit))  # noqa: B010
    return model


def disk_name(name: str, model_type: str) -> str:
    """An adapter tensor's name with its module called as in the checkpoint's files."""
    memory, disk = ROOTS.get(model_type, ("", ""))
    if memory and name.startswith(PREFIX + memory):
        return PREFIX + disk + name[len(PREFIX + memory) :]
    return name


class HfDecoder:
    """Greedy decoding of one base with any adapter."""

    def __init__(self, base: Path, device: str, dtype: str = "float32") -> None:
        model: Any = open_model(base, getattr(torch, dtype))
        self.model: Any = model.to(device).eval()
        self.model.requires_grad_(False)
        self.memory, self.disk = ROOTS.get(self.model.config.model_type, ("", ""))

    @torch.inference_mode()
    def generate(
        self,
        adapter: Adapter | None,
        prompts: Sequence[Sequence[int]],
        max_new: int,
        eos_ids: Sequence[int],
        pad_id: int,
        batch_size: int = 32,
    ) -> list[list[int]]:
        """New ids for each prompt, up to but without the end token, at most `max_new` each.

        Prompts go in groups of equal length: padding to the left would reach a recurrent state.

        Raises:
            AdapterError: the adapter cannot be merged.
        """
        results: list[list[int]] = [[] for _ in prompts]
        with self.merged(adapter):
            for group in equal_length_groups(prompts, batch_size):
                ids = torch.tensor([list(prompts[i]) for i in group], device=self.model.device)
                out = self.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=max_new,
                    do_sample=False,
                    eos_token_id=list(eos_ids),
                    pad_token_id=pad_id,
                )
                for index, row in zip(group, out[:, ids.shape[1] :].tolist(), strict=True):
                    results[index] = _until(row, eos_ids)
        return results

    @contextmanager
    def merged(self, adapter: Adapter | None) -> Iterator[None]:
        """The model with the adapter in its weights; afterwards exactly as it was."""
        before: list[tuple[Tensor, Tensor]] = []
        try:
            for module, (a, b) in (adapter.pairs if adapter else {}).items():
                weight = self._weight(module)
                # In fp32 until it is added, so that half precision rounds the sum alone.
                update = (adapter.scale if adapter else 0.0) * (b @ a).to(weight.device)
                ratio = float(update.norm() / weight.norm().clamp_min(1e-12))
                if not ratio <= MAX_RELATIVE_NORM:
                    raise AdapterError(
                        f"{module}: update has {ratio:.3g} times the norm of the weight"
                    )
                before.append((weight, weight.clone()))
                weight.add_(update)
            yield
        finally:
            for weight, original in before:
                weight.copy_(original)

    def _weight(self, module: str) -> Tensor:
        name = module
        if self.disk and module.startswith(self.disk):
            name = self.memory + module[len(self.disk) :]
        try:
            if expert := EXPERT.fullmatch(name):  # one matrix of a fused parameter
                return cast(Tensor, self.model.get_parameter(expert[1] + expert[3]))[int(expert[2])]
            return cast(Tensor, self.model.get_parameter(name + ".weight"))
        except (AttributeError, IndexError) as error:
            raise AdapterError(f"{module}: transformers has no such matrix") from error


def _until(row: list[int], ends: Sequence[int]) -> list[int]:
    for index, token in enumerate(row):
        if token in ends:
            return row[:index]
    return row
