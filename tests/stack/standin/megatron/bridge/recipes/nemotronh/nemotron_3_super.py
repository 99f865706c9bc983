"""The real recipe, too, asks the hub for the configuration of a constant name."""

from __future__ import annotations

from megatron.bridge import AutoBridge
from megatron.bridge.training.config import ConfigContainer

NEMOTRON_3_SUPER_HF_MODEL_ID = "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16"


def nemotron_3_super_peft_config(peft_scheme: str = "lora") -> ConfigContainer:
    bridge = AutoBridge.from_hf_pretrained(NEMOTRON_3_SUPER_HF_MODEL_ID)
    return ConfigContainer(model=bridge.to_megatron_provider(load_weights=False))
