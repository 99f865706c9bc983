"""As peft/lora.py and peft/module_matcher.py of v0.5.1: which modules of a model get an adapter."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

RECIPE = ["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2", "in_proj", "out_proj"]


def wildcard_match(pattern: str, key: str) -> bool:
    return re.match("^" + pattern.replace("*", "(.*)") + "$", key) is not None


@dataclass
class LoRA:
    target_modules: list[str] = field(default_factory=lambda: list(RECIPE))
    dim: int = 32
    alpha: float = 32
    dropout: float = 0.0
    dropout_position: str = "pre"
    lora_A_init_method: str = "xavier"
    lora_B_init_method: str = "zero"

    def matches(self, full_name: str) -> bool:
        name = full_name.rpartition(".")[2]
        return any(
            name == pattern or wildcard_match(pattern, full_name) for pattern in self.target_modules
        )

    def lora(self) -> dict[str, Any]:
        """As train.mcore.lora takes it."""
        return {"rank": self.dim, "alpha": self.alpha, "dropout": self.dropout}
