"""Which modules carry an adapter: the recipe's `train.lora.targets` for one architecture."""

from __future__ import annotations

from collections.abc import Iterable

GROUPS = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
# Linear layers that `all` leaves out, by model type. The fused Mamba kernels read out_proj's weight
# themselves, so peft refuses an adapter on it.
WITHOUT: dict[str, tuple[str, ...]] = {"nemotron_h": ("out_proj",)}


class TargetError(ValueError):
    """The recipe names modules that the base does not have; one line."""


def resolve(wanted: str | Iterable[str], present: Iterable[str], model_type: str) -> list[str]:
    """Names of modules for `wanted` (all | attention | mlp | list), of those `present`.

    A group stands for those of its modules that the architecture has (Nemotron-H has no
    gate_proj); a list is taken at its word.

    Raises:
        TargetError: a named module, or every module of a group, is not there.
    """
    present = set(present)
    if wanted == "all":
        return sorted(present - set(WITHOUT.get(model_type, ())))
    if isinstance(wanted, str) and wanted in GROUPS:
        names = [name for name in GROUPS[wanted] if name in present]
        missing = [] if names else list(GROUPS[wanted])
    else:
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        missing = [name for name in names if name not in present]
    if missing:
        raise TargetError(
            f"train.lora.targets: no module {', '.join(missing)}; "
            f"the base has {', '.join(sorted(present))}"
        )
    return names
