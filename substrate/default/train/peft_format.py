"""An adapter as peft, vLLM and the trusted check of adapters read it.

Names are those of the checkpoint on disk (`base_model.model.backbone.layers.…`). `mtp.` layers have
none. Before a run starts, `check_loadable` makes sure that peft would load every tensor: it drops
unknown ones silently.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from train.model import ModelError

ROOT = "base_model.model.backbone."
REFUSED = "out_proj"  # by peft 0.21 for Mamba models, at load too


def peft_config(lora: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """adapter_config.json for tensors of these names."""
    from peft import LoraConfig

    config: dict[str, Any] = LoraConfig(
        r=lora["rank"], lora_alpha=lora["alpha"], lora_dropout=lora["dropout"],
        target_modules=sorted({name.split(".")[-3] for name in names}), task_type="CAUSAL_LM",
    ).to_dict()
    return config


def check_loadable(base: Path, lora: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    """Build the model without weights, let peft adapt it, and compare names and shapes.

    out_proj is left out of the comparison: peft refuses it, vLLM and eval's own merge do not.

    Raises:
        ModelError: peft would load another set of tensors than will be saved.
    """
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    saved = {name: shape for name, shape in shapes.items() if f".{REFUSED}." not in name}
    modules = sorted({name.split(".")[-3] for name in saved})
    if not modules:
        return
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
        adapted = get_peft_model(model, LoraConfig(
            r=lora["rank"], lora_alpha=lora["alpha"], target_modules=modules,
            task_type="CAUSAL_LM",
        ))
        state = get_peft_model_state_dict(adapted)
    loaded = {name.replace("base_model.model.model.", ROOT, 1): tuple(tensor.shape)
              for name, tensor in state.items()}
    if loaded != saved:
        different = sorted(set(loaded.items()) ^ set(saved.items()))
        raise ModelError(
            f"{base}: peft would load {len(loaded)} tensors where {len(saved)} are saved; first "
            f"difference {different[0][0]} {different[0][1]}"
        )
