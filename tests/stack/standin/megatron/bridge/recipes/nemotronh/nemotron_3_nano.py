"""The architecture is written out in the real recipe, too."""

from __future__ import annotations

from megatron.bridge.training.config import ConfigContainer, MambaModelProvider


def nemotron_3_nano_peft_config(peft_scheme: str = "lora") -> ConfigContainer:
    return ConfigContainer(
        model=MambaModelProvider(
            hidden_size=2688,
            num_layers=52,
            expert_model_parallel_size=8,
            mtp_num_layers=0,
            mtp_hybrid_override_pattern=None,
            sequence_parallel=False,
        )
    )
