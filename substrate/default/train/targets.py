"""Which modules carry an adapter, and of which rank: `train.lora` of the recipe for one base.

Modules are called by the end of their name. A plain `up_proj` is that of every MLP, shared experts'
included; `experts.up_proj` stands for that of every routed expert of a layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

GROUPS = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "mamba": ("in_proj", "out_proj"),
    "shared_experts": ("shared_experts.up_proj", "shared_experts.down_proj"),
    "experts": ("experts.up_proj", "experts.down_proj"),
    "lm_head": ("lm_head",),
}
# Linear layers that `all` leaves out, by model type. The fused Mamba kernels read out_proj's weight
# themselves, so peft refuses an adapter on it.
WITHOUT: dict[str, tuple[str, ...]] = {"nemotron_h": ("out_proj",)}


class TargetError(ValueError):
    """The recipe names modules that the base does not have; one line."""


def resolve(wanted: str | Iterable[str], present: Iterable[str], model_type: str) -> list[str]:
    """Names of modules for `wanted`, of those `present`.

    Args:
        wanted: `all`, a group, or a list of `all`, groups and modules.

    `all` is every plain module but WITHOUT: neither routed experts nor the head. A group stands for
    those of its modules that the architecture has (Nemotron-H has no gate_proj); a module is taken
    at its word.

    Raises:
        TargetError: a named module, or every module of a group, is not there.
    """
    present = set(present)
    names: list[str] = []
    for item in [wanted] if isinstance(wanted, str) else wanted:
        names += [name for name in _meant(item, present, model_type) if name not in names]
    return names


def _meant(item: str, present: set[str], model_type: str) -> list[str]:
    if item == "all":
        without = {*WITHOUT.get(model_type, ()), "lm_head"}
        return sorted(name for name in present - without if "." not in name)
    own = GROUPS.get(item, (item,))
    found = [name for name in own if name in present]
    if not found:
        plain = sorted(name for name in present if "." not in name)
        raise TargetError(
            f"train.lora.targets: no module {', '.join(own)}; the base has {', '.join(plain)}"
        )
    return found


def group(module: str) -> str:
    """The group that a module belongs to, for its rank; `module` is its whole name or the end."""
    *path, leaf = module.split(".")
    for inner in ("shared_experts", "experts"):
        if inner in path:
            return inner
    return next((name for name in ("attention", "mamba", "lm_head") if leaf in GROUPS[name]), "mlp")


def rank(lora: dict[str, Any], module: str) -> int:
    """The rank of a module's adapter: its group's in `train.lora.ranks`, else `train.lora.rank`."""
    found: int = (lora.get("ranks") or {}).get(group(module), lora["rank"])
    return found


def scale(lora: dict[str, Any]) -> float:
    """What every update B A is multiplied with, whatever its rank: vLLM knows but one."""
    return float(lora["alpha"]) / float(lora["rank"])
