"""The base model with a LoRA adapter on it, and the loss.

Works for any causal language model folder that transformers loads. Nothing is fetched and no code
from the folder is run.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from train.batching import IGNORE, Batch

# Logits are exactly output_embeddings(last hidden state): no soft-capping, no scaling.
PLAIN_HEAD = ("llama", "mistral", "qwen2", "qwen3")
GROUPS = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}


class ModelError(ValueError):
    """The base cannot be loaded or has no such modules; one line."""


def load(base: Path, lora: dict[str, Any], seed: int, device: str) -> PeftModel:
    """The base in fp32 on `device` with a fresh adapter; the seed decides its initial values.

    Raises:
        ModelError: not a model folder, or the LoRA targets are not in it.
    """
    disable_progress_bar()  # stderr is for errors
    try:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{base}: {' '.join(str(error).split())[:300]}") from error
    config = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=_targets(model, lora["targets"]),
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    adapted = get_peft_model(model, config)
    if not isinstance(adapted, PeftModel):
        raise ModelError(f"{base}: peft gave no PeftModel")
    return adapted.to(device)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def loss(model: PeftModel, batch: Batch) -> Tensor:
    """Weighted mean cross-entropy of the learned positions, each predicted from those before it."""
    device = next(model.parameters()).device
    targets = batch.labels[:, 1:].reshape(-1)
    at = torch.nonzero(targets != IGNORE).squeeze(1)
    weights = batch.weights[:, 1:].reshape(-1)[at].to(device)
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
    each = F.cross_entropy(logits.float(), targets, reduction="none")
    return (each * weights).sum() / weights.sum().clamp_min(1e-8)


def _targets(model: PreTrainedModel, wanted: str | Iterable[str]) -> list[str]:
    head = model.get_output_embeddings()
    present = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    if wanted == "all":
        return sorted(present)  # every linear layer but the output head
    names = list(GROUPS.get(wanted, (wanted,))) if isinstance(wanted, str) else list(wanted)
    missing = [name for name in names if name not in present]
    if missing:
        raise ModelError(
            f"train.lora.targets: no module {', '.join(missing)}; "
            f"the base has {', '.join(sorted(present))}"
        )
    return names
