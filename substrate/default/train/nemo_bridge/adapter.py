"""From what Megatron-Bridge exports to the tensors of one adapter, and what they must be.

Megatron-Bridge (0.4 to 0.6) puts ranks' rows of Mamba's `in_proj` one after the other, which at
tensor > 1 is not the matrix: those rows are put together here, component by component.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from train.mcore.names import BY_KIND, HF_NAMES
from train.nemo_bridge.family import BridgeError
from train.peft_format import ROOT

PREFIX = "base_model.model."
ROOTS = ("backbone.", "model.")  # of the decoder's names, as hub and transformers 5 write them
HALVES = ("lora_A.weight", "lora_B.weight")


def modules(config: Any, leaves: Collection[str]) -> set[str]:
    """The checkpoint's modules with an adapter, `layers.4.mixer.in_proj`, for mcore's `leaves`."""
    chosen = {name for leaf in leaves for name in HF_NAMES[leaf]}
    return {f"layers.{number}.mixer.{name}"
            for number, kind in enumerate(config.hybrid_override_pattern)
            for name in BY_KIND[kind] if name in chosen}


def shapes(found: Iterable[str], weights: Mapping[str, tuple[int, ...]],
           rank: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the adapter.

    Args:
        found: modules; weights: shapes of the base's tensors.

    Raises:
        BridgeError: the base lacks a module.
    """
    tensors: dict[str, tuple[int, ...]] = {}
    for module in sorted(found):
        shape = next((weights[root + module + ".weight"] for root in ROOTS
                      if root + module + ".weight" in weights), None)
        if shape is None:
            raise BridgeError(f"the base has no tensor {ROOTS[0]}{module}.weight")
        tensors[f"{ROOT}{module}.lora_A.weight"] = (rank, shape[1])
        tensors[f"{ROOT}{module}.lora_B.weight"] = (shape[0], rank)
    return tensors


def trained(expected: Mapping[str, tuple[int, ...]]) -> int:
    """Trained parameters behind these tensors: q, k and v share one A."""
    shared = (".k_proj.lora_A.weight", ".v_proj.lora_A.weight")
    return sum(shape[0] * shape[1] for name, shape in expected.items() if not name.endswith(shared))


def tidy(exported: Iterable[tuple[str, Tensor]], in_proj: Mapping[str, Tensor],
         expected: Mapping[str, tuple[int, ...]],
         by: str = "Megatron-Bridge") -> dict[str, Tensor]:
    """The adapter's tensors in fp32, under the names that peft and vLLM read.

    Args:
        exported: (name, tensor) as Megatron-Bridge, or whoever `by` names, gives them.
        in_proj: B of every module in_proj, put together by component; replaces what was exported.

    Raises:
        BridgeError: they are not exactly those `expected`.
    """
    tensors = {}
    for name, tensor in exported:
        module = name.removeprefix(PREFIX)
        root = next((root for root in ROOTS if module.startswith(root)), None)
        if root is None or not module.endswith(HALVES):
            if module.startswith("mtp."):
                continue  # vLLM has no such layers
            raise BridgeError(f"{by} exported {name[:120]}, which no adapter may have")
        tensors[ROOT + module[len(root):]] = tensor.detach().float().cpu().contiguous()
    for module, tensor in in_proj.items():
        tensors[f"{ROOT}{module}.lora_B.weight"] = tensor.detach().float().cpu().contiguous()
    got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if got != dict(expected):
        different = sorted(set(got.items()) ^ set(expected.items()))
        raise BridgeError(
            f"{by} exported {len(got)} tensors where {len(expected)} are trained; first "
            f"difference {different[0][0]} {different[0][1]}"
        )
    return tensors
