"""This one takes a path."""

from __future__ import annotations

from megatron.bridge import AutoBridge
from megatron.bridge.training.config import ConfigContainer


def nemotron_3_ultra_peft_openmathinstruct2_packed_config(
    *, peft: str | None = "lora", hf_path: str | None = None, seq_length: int = 4096
) -> ConfigContainer:
    bridge = AutoBridge.from_hf_pretrained(
        hf_path or "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16"
    )
    return ConfigContainer(model=bridge.to_megatron_provider(load_weights=False))
