"""LoRA: which matrices carry an adapter, how many parameters that is, and the size of its file."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aevo.studies.scale.architecture import Architecture, Weight, layer, weights

SHARED = "shared_experts."
GROUPS = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
    "mamba": ("in_proj", "out_proj"),
    "shared_experts": (f"{SHARED}up_proj", f"{SHARED}down_proj"),
    "experts": (),  # Adapter.routed
    "lm_head": ("lm_head",),
}
WITHOUT = {"nemotron_h": ("out_proj",)}  # what `all` leaves out: peft refuses it
ENTRY = 88  # bytes of a tensor's line in the header of a safetensors file, without its name


@dataclass(frozen=True)
class Adapter:
    """An adapter of a rank on modules named `leaves`, with `shared_experts.` before it where only
    those are meant.

    Attributes:
        ranks: (group of the recipe, rank) where it is another;
        routed: whether up and down of routed experts are among them;
        per_rank: whether all experts of a rank share one adapter while it is trained; in the file
            each has a copy;
        fused: whether queries, keys and values share an A while it is trained, as one matrix.
    """

    rank: int
    leaves: frozenset[str]
    routed: bool = False
    per_rank: bool = False
    fused: bool = False
    ranks: tuple[tuple[str, int], ...] = ()

    def rank_on(self, weight: Weight) -> int:
        """The rank on a weight."""
        group = {"shared experts": "shared_experts", "routed experts": "experts"}.get(
            weight.group
        ) or next((name for name, leaves in GROUPS.items() if weight.leaf in leaves), "mlp")
        return dict(self.ranks).get(group, self.rank)

    def on(self, weight: Weight) -> bool:
        """Whether a weight carries one."""
        if weight.split == "expert":
            return self.routed and bool(weight.leaf)
        shared = weight.group == "shared experts" and f"{SHARED}{weight.leaf}" in self.leaves
        return shared or weight.leaf in self.leaves

    def of(self, weight: Weight) -> int:
        """Parameters on a weight, as the file has them."""
        if not self.on(weight):
            return 0
        return self.rank_on(weight) * (weight.inputs + weight.outputs) * weight.count

    def trained(self, weight: Weight, experts: int) -> int:
        """Parameters that are trained on a weight, of which `experts` ranks share the experts."""
        if not self.on(weight):
            return 0
        copies = weight.count
        if self.per_rank and weight.split == "expert":
            copies = min(experts, copies)
        inputs = 0 if self.fused and weight.leaf in ("k_proj", "v_proj") else weight.inputs
        return self.rank_on(weight) * (inputs + weight.outputs) * copies

    def parameters(self, model: Architecture) -> int:
        """Of the adapter's file."""
        return sum(self.of(weight) for weight in weights(model))

    def tensors(self, model: Architecture) -> int:
        """Of the adapter's file: an A and a B for each matrix."""
        return 2 * sum(weight.count for weight in weights(model) if self.on(weight))

    def file_bytes(self, model: Architecture, size: int = 4) -> int:
        """Of adapter_model.safetensors; `size` of a number. The header's part is not exact."""
        names = sum(
            2 * weight.count * (ENTRY + len(_name(number, weight)))
            for number, kind in enumerate(model.pattern)
            for weight in layer(model, kind)
            if self.on(weight)
        )
        return self.parameters(model) * size + names


def adapter_of(lora: dict[str, Any], model: Architecture) -> Adapter:
    """The adapter of the recipe's `train.lora`."""
    wanted = lora["targets"]
    routed = "experts" in ([wanted] if isinstance(wanted, str) else wanted)
    return Adapter(
        lora["rank"],
        leaves(wanted, model),
        routed=routed,
        ranks=tuple((lora.get("ranks") or {}).items()),
    )


def leaves(wanted: str | Iterable[str], model: Architecture) -> frozenset[str]:
    """The modules that the recipe's `train.lora.targets` (all, a group, or a list) means; what the
    substrate's train/targets.py says. The head is never one of `all`."""
    present = {weight.leaf for weight in weights(model) if weight.leaf}
    shared = {
        f"{SHARED}{weight.leaf}" for weight in weights(model) if weight.group == "shared experts"
    }
    found: set[str] = set()
    for item in [wanted] if isinstance(wanted, str) else wanted:
        if item == "all":
            found |= present - {*WITHOUT.get(model.family, ()), "lm_head"}
        else:
            found |= set(GROUPS.get(item, (item,))) & (present | shared)
    return frozenset(found)


def by_target(model: Architecture, rank: int) -> dict[str, int]:
    """Parameters of an adapter on each group of matrices, were it one of the targets."""
    found: dict[str, int] = {}
    for kind in model.pattern:
        for weight in layer(model, kind):
            if weight.leaf:
                size = rank * (weight.inputs + weight.outputs) * weight.count
                found[weight.group] = found.get(weight.group, 0) + size
    return found | {"lm_head": rank * (model.hidden + model.vocab)}


def _name(number: int, weight: Weight) -> str:
    inner = {"shared experts": "shared_experts.", "routed experts": "experts.100."}
    middle = inner.get(weight.group, "")
    return f"base_model.model.backbone.layers.{number}.mixer.{middle}{weight.leaf}.lora_A.weight"
