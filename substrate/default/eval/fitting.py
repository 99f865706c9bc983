"""What of an engine's settings follows from the base and the GPU: how many answers it works on at
once, and whether it keeps prompts' beginnings."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MOST, LEAST, CPU = 512, 8, 64  # answers at once; CPU: where no GPU tells its memory
TOKENS = 2048  # of prompt and answer, on average: vLLM makes some wait where all are longer
RESERVE = 6 * 2**30  # bytes of a GPU for activations, CUDA graphs and adapters
STATE_BYTES, CACHE_BYTES = 4, 2  # of a number in Mamba's state (at most) and in the cache
Question = Callable[[], int | None]


def at_once(
    config: Mapping[str, Any], weight_bytes: int, gpus: int, share: float, memory: Question
) -> int:
    """Answers that fit beside the weights, on the engine's `gpus` together.

    Args:
        config: the base's config.json.
        share: of a GPU's memory that the engine takes.
        memory: bytes of a GPU; None: there is none to ask.
    """
    each = memory()
    row = row_bytes(config)
    if each is None or row == 0:
        return CPU
    room = gpus * (share * each - RESERVE) - 1.05 * weight_bytes
    return max(LEAST, min(MOST, int(room / row) // 8 * 8))


def row_bytes(config: Mapping[str, Any]) -> int:
    """Bytes that an answer in progress holds: Mamba's state, keys and values."""
    kinds = config.get("hybrid_override_pattern") or config.get("layers_block_type")
    layers = int(config.get("num_hidden_layers") or 0)
    attention = sum(kind in ("*", "attention", "full_attention") for kind in kinds or "*" * layers)
    mamba = sum(kind in ("M", "mamba", "linear_attention") for kind in kinds or "")
    heads = int(config.get("num_attention_heads") or 0)
    width = int(config.get("head_dim") or int(config.get("hidden_size") or 0) // max(heads, 1))
    kept = int(config.get("num_key_value_heads") or heads) * width
    state = (int(config.get("mamba_num_heads") or 0) * int(config.get("mamba_head_dim") or 0)
             * int(config.get("ssm_state_size") or 0))
    return mamba * state * STATE_BYTES + attention * 2 * kept * TOKENS * CACHE_BYTES


def keeps_prefixes(config: Mapping[str, Any]) -> bool:
    """Whether prefix caching is of use: on Nemotron-H it has no hits (vllm-project/vllm#54504)."""
    return config.get("model_type") != "nemotron_h"


def smallest_gpu() -> int | None:
    """Bytes of the smallest GPU here. Asked of the driver's tool: torch would take memory of the
    first one for as long as this process lives."""
    words = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = [int(line) for line in done.stdout.split() if line.isdigit()]
    return min(found) * 2**20 if done.returncode == 0 and found else None


def stored_bytes(base: Path) -> int:
    """Size of the weights' files."""
    return sum(path.stat().st_size for path in base.glob("*.safetensors"))
