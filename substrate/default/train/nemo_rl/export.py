"""Which modules carry an adapter, and NeMo-RL's adapter in the format of the other trainers.

NeMo-RL (by NeMo-Automodel) saves peft's names under the model's own root; the checkpoint's root is
`backbone`. Nothing here needs peft, which NeMo-RL's container does not promise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from train.mcore.names import BY_KIND, chosen
from train.nemo_bridge.adapter import tidy
from train.nemo_bridge.family import BridgeError
from train.nemo_rl.tasks import NemoRlError
from train.peft_format import lora_fields

WEIGHTS = Path("policy", "weights", "model", "adapter_model.safetensors")
REFUSED = {"out_proj", "lm_head", "experts.up_proj", "experts.down_proj"}


def modules(config: Any, lora: Mapping[str, Any]) -> set[str]:
    """The checkpoint's modules with an adapter, `layers.4.mixer.in_proj`.

    Raises:
        NemoRlError, TargetError: the recipe asks for modules that NeMo-RL cannot adapt, or for
            ranks by group.
    """
    found = chosen(config, lora["targets"])
    if lora.get("ranks") or found & REFUSED:
        raise NemoRlError("train.lora: NeMo-RL has one rank for all, and for Nemotron-H no adapter "
                          "on out_proj (its kernels give it no gradient), single experts or the "
                          "head; leave out ranks, out_proj, experts, lm_head, or use "
                          "trainer=megatron")
    return {f"layers.{number}.mixer.{name}"
            for number, kind in enumerate(config.hybrid_override_pattern)
            for name in BY_KIND[kind] if name in found}


def tensors(state: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The adapter of one of NeMo-RL's states.

    Raises:
        NemoRlError: it is not there, or has other tensors than those `expected`.
    """
    try:
        return tidy(load_file(state / WEIGHTS).items(), {}, expected, by="NeMo-RL")
    except (OSError, SafetensorError, BridgeError) as error:
        raise NemoRlError(f"{state / WEIGHTS}: {error}") from error


def config(lora: dict[str, Any], names: Mapping[str, Tensor]) -> dict[str, Any]:
    """adapter_config.json for tensors of these names; peft has defaults for what is not said."""
    return {"peft_type": "LORA", "bias": "none", "task_type": "CAUSAL_LM",
            **lora_fields(lora, names)}
