"""The base model with a LoRA adapter on it, and the loss.

Works for any causal language model folder that transformers loads. Nothing is fetched and no code
from the folder is run.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from eval.hf import open_model
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from train.batching import IGNORE, Batch
from train.peft_format import ModelError, adapt, lora_config
from train.targets import TargetError, resolve

# Logits are exactly output_embeddings(last hidden state): no soft-capping, no scaling.
PLAIN_HEAD = ("llama", "mistral", "qwen2", "qwen3", "nemotron_h")
RECURRENT = ("nemotron_h",)  # their layers know no segments here: packed examples would mix


def load(base: Path, lora: dict[str, Any], seed: int, device: str,
         dtype: torch.dtype = torch.float32) -> PeftModel:
    """The base on `device` with a fresh adapter, always in fp32; the seed decides its
    initial values.

    Raises:
        ModelError: not a model folder, or the LoRA targets are not in it.
    """
    try:
        model = open_model(base, dtype)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{base}: {' '.join(str(error).split())[:300]}") from error
    config = lora_config(lora, _targets(model, lora["targets"]))
    torch.manual_seed(seed)
    try:
        adapted = adapt(model, config)
    except ValueError as error:  # out_proj of a Mamba model, dropout on routed experts
        raise ModelError(f"train.lora.targets: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(adapted, PeftModel):
        raise ModelError(f"{base}: peft gave no PeftModel")
    return adapted.to(device)


def checkpoint_layers(model: PeftModel) -> None:
    """The backward pass computes each layer anew from its input: less memory, a third more time.

    Raises:
        ModelError: transformers cannot for this architecture.
    """
    base: Any = model.get_base_model()
    if not base.supports_gradient_checkpointing:
        raise ModelError(f"--recompute full: transformers has none for {base.config.model_type}")
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def loss(model: PeftModel, batch: Batch) -> Tensor:
    """Weighted mean cross-entropy of the learned positions, each predicted from those before it."""
    logits, targets, at = learned(model, batch)
    weights = batch.weights[:, 1:].reshape(-1).to(at.device)[at]
    each = F.cross_entropy(logits.float(), targets, reduction="none")
    return (each * weights).sum() / weights.sum().clamp_min(1e-8)


def learned(model: PeftModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Of the learned positions: logits (n, vocabulary), labels (n,), and where they stand in
    `labels[:, 1:]` made flat (n,)."""
    device = next(model.parameters()).device
    targets = batch.labels[:, 1:].reshape(-1)
    at = torch.nonzero(targets != IGNORE).squeeze(1)
    targets, at = targets[at].to(device), at.to(device)
    inputs: dict[str, Any] = {"input_ids": batch.ids.to(device), "use_cache": False}
    if batch.mask is not None and batch.positions is not None:
        inputs["attention_mask"] = batch.mask.to(device)
        inputs["position_ids"] = batch.positions.to(device)
    causal: Any = model.get_base_model()
    if causal.config.model_type in PLAIN_HEAD:
        # The vocabulary projection is the larger half of a small model: only where it is needed.
        hidden = causal.get_decoder()(**inputs).last_hidden_state[:, :-1]
        logits = causal.get_output_embeddings()(hidden.reshape(-1, hidden.shape[-1])[at])
    else:
        full = causal(**inputs).logits[:, :-1]
        logits = full.reshape(-1, full.shape[-1])[at]
    return logits, targets, at


def paths(model: PeftModel) -> dict[str, str]:
    """Which way transformers goes for what has a slow way too: by package found, on CUDA."""
    config: Any = model.get_base_model().config
    found = {}
    if config.model_type in RECURRENT:
        cuda = next(model.parameters()).is_cuda
        for what, package in (("scan", "mamba_ssm"), ("convolution", "causal_conv1d")):
            here = cuda and importlib.util.find_spec(package) is not None
            found[what] = package if here else "torch"
    if getattr(config, "n_routed_experts", None):
        found["experts"] = str(config._experts_implementation)
    return found


def check_packing(base: Path, packing: bool) -> None:
    """Refuse to pack examples for a model whose layers would carry state between them.

    Raises:
        ModelError: the recipe packs and the base is recurrent.
    """
    kind = json.loads((base / "config.json").read_text(encoding="utf-8")).get("model_type")
    if packing and kind in RECURRENT:
        raise ModelError(
            f"train.packing: transformers' {kind} carries state from one packed example into the "
            "next; set it to false, or use trainer=megatron"
        )


def _targets(model: PreTrainedModel, wanted: str | Iterable[str]) -> list[str]:
    present = _present(model)
    try:
        names = resolve(wanted, present, model.config.model_type)
    except TargetError as error:
        raise ModelError(str(error)) from error
    # A plain up_proj is that of shared experts, too, which may have a rank of their own.
    return names + [name for name in present if name.startswith("shared_experts.")
                    and name.rpartition(".")[2] in names and name not in names]


def _present(model: PreTrainedModel) -> list[str]:
    """Modules that may carry an adapter, as train.targets calls them."""
    head, found = model.get_output_embeddings(), set()
    for name, module in model.named_modules():
        path, _, leaf = name.rpartition(".")
        if isinstance(module, nn.Linear) and module is not head:
            found |= {leaf} | ({f"shared_experts.{leaf}"} if "shared_experts" in path else set())
        if leaf == "experts":  # fused 3-D parameters
            found |= {f"experts.{own}" for own, _ in module.named_parameters(recurse=False)}
    untied = head is not None and head.weight is not model.get_input_embeddings().weight
    return sorted(found | ({"lm_head"} if untied else set()))
