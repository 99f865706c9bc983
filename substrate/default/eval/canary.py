"""A loud adapter, by which every start of a vLLM engine proves itself before it is believed.

Versions of vLLM have ignored adapters without a word, and have changed the base while they loaded
one: both give scores that look like any other. engine/vllm_engine.py asks base and canary in turn.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from eval.adapter import FILES, PREFIX

GAIN = 4.0  # of what the layer answers to an input of size one
PROMPTS, TOKENS = 8, 8


def write_canary(folder: Path, adapters: Sequence[Path]) -> Path:
    """Makes an adapter on the modules that all of `adapters` have (else the first's), at the first
    one's rank; the same for the same adapters."""
    shapes = [_shapes(path / FILES[1]) for path in adapters]
    common = set(shapes[0]).intersection(*shapes[1:]) or set(shapes[0])
    draw = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for module in sorted(common):
        rank, inputs, outputs = shapes[0][module]
        down = torch.randn(rank, inputs, generator=draw) / inputs**0.5
        up = GAIN * torch.randn(outputs, rank, generator=draw) / rank**0.5
        tensors |= {f"{PREFIX}{module}.lora_A.weight": down, f"{PREFIX}{module}.lora_B.weight": up}
    rank = shapes[0][min(common)][0]
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none",
              "target_modules": sorted({module.rpartition(".")[2] for module in common})}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / FILES[1])
    (folder / FILES[0]).write_text(json.dumps(config), encoding="utf-8")
    return folder


def _shapes(path: Path) -> dict[str, tuple[int, int, int]]:
    """(rank, inputs, outputs) of each module of an adapter that was judged before."""
    found = {}
    with safe_open(str(path), framework="pt") as handle:
        for name in handle.keys():  # noqa: SIM118  safe_open is not a mapping
            stem, _, half = name.removesuffix(".weight").rpartition(".")
            if half == "lora_A":
                rank, inputs = handle.get_slice(name).get_shape()
                outputs = handle.get_slice(f"{stem}.lora_B.weight").get_shape()[0]
                found[stem.removeprefix(PREFIX)] = (rank, inputs, outputs)
    return found
