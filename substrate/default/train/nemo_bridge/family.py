"""Which Nemotron 3 a base is, which recipe that means, and how it is divided among ranks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

KINDS = {"mamba": "M", "linear_attention": "M", "moe": "E", "attention": "*",
         "full_attention": "*", "mlp": "-"}
ELSEWHERE = ("experts", "lm_head")  # targets of other trainers
RECIPES = "megatron.bridge.recipes.nemotronh."


class BridgeError(ValueError):
    """The run cannot be given to Megatron-Bridge as it stands; one line."""


@dataclass(frozen=True)
class Family:
    """A size of Nemotron 3.

    Attributes:
        shape: (layers, hidden size), by which a base is recognised;
        recipes: (module, function) of its LoRA recipe in Megatron-Bridge, the first that exists;
        layout: (tensor, pipeline, expert) of NVIDIA's own example on H100.
    """

    name: str
    shape: tuple[int, int]
    recipes: tuple[tuple[str, str], ...]
    layout: tuple[int, int, int]


FAMILIES = {
    family.name: family for family in (
        Family("nano", (52, 2688), (
            (f"{RECIPES}nemotron_3_nano", "nemotron_3_nano_peft_config"),
        ), (1, 1, 8)),
        Family("super", (88, 4096), (
            # From 0.6 a function of its own for 16 GPUs; before, that is examples/…/slurm_peft.sh.
            (f"{RECIPES}h100.nemotron_3_super", "nemotron_3_super_peft_16gpu_h100_bf16_config"),
            (f"{RECIPES}nemotron_3_super", "nemotron_3_super_peft_config"),
        ), (8, 1, 16)),
        Family("ultra", (108, 8192), (
            (f"{RECIPES}nemotron_3_ultra", "nemotron_3_ultra_peft_openmathinstruct2_packed_config"),
        ), (2, 4, 8)),
    )
}


@dataclass(frozen=True)
class Layout:
    """How a training is spread over `processes` ranks; expert tensor parallelism is always 1."""

    tensor: int
    pipeline: int
    expert: int
    sequence: int  # most tokens a row may have
    micro_batch: int  # rows a forward pass
    processes: int

    @property
    def data(self) -> int:
        """Groups of ranks that divide the rows of a batch."""
        return self.processes // (self.tensor * self.pipeline)


def read_config(base: Path) -> Any:
    """config.json of the base, `hybrid_override_pattern` as the hub's files write it.

    Raises:
        BridgeError: it is not a Nemotron-H checkpoint.
    """
    try:
        raw: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BridgeError(f"{base}: {' '.join(str(error).split())}") from error
    if raw.get("model_type") != "nemotron_h":
        raise BridgeError(
            f"{base}: model_type={raw.get('model_type')!r}, trainer=bridge trains nemotron_h; use "
            "trainer=peft"
        )
    blocks = raw.get("layers_block_type")
    if "hybrid_override_pattern" not in raw and isinstance(blocks, list):
        raw["hybrid_override_pattern"] = "".join(KINDS[kind] for kind in blocks)
    return SimpleNamespace(**raw)


def recognise(config: Any, wanted: str) -> Family:
    """The base's family: by its shape for `auto`, else the one named (for a derivative of it).

    Raises:
        BridgeError: the shape is of none.
    """
    if wanted != "auto":
        return FAMILIES[wanted]
    shape = (len(config.hybrid_override_pattern), config.hidden_size)
    for family in FAMILIES.values():
        if family.shape == shape:
            return family
    known = ", ".join(f"{f.name} {f.shape[0]} x {f.shape[1]}" for f in FAMILIES.values())
    raise BridgeError(
        f"{shape[0]} layers of {shape[1]} are none of {known}; name the recipe with "
        "trainer.options.family"
    )


def layout(family: Family, asked: tuple[int, int, int], sequence: int, micro_batch: int,
           processes: int) -> Layout:
    """The parallel sizes `asked` (tensor, pipeline, expert), 0 for those of NVIDIA's example.

    Raises:
        BridgeError: the processes cannot be divided so.
    """
    tensor, pipeline, expert = (a or own for a, own in zip(asked, family.layout, strict=True))
    found = Layout(tensor, pipeline, expert, sequence, micro_batch, processes)
    sizes = f"tensor {tensor} x pipeline {pipeline}, expert {expert}"
    least = pipeline * max(tensor, expert)
    if processes < least or processes % (tensor * pipeline):
        raise BridgeError(f"{processes} processes cannot be divided into {sizes}: at least {least} "
                          f"and a multiple of {tensor * pipeline} are needed")
    if (processes // pipeline) % expert:
        raise BridgeError(f"expert = {expert} does not divide the {processes // pipeline} "
                          "processes of a pipeline stage")
    if sequence % tensor:
        raise BridgeError(f"sequence = {sequence} is not a multiple of tensor = {tensor}")
    return found


def check(layout: Layout, config: Any, train: dict[str, Any]) -> None:
    """What of the recipe's `train` section and of the base cannot be had on this layout.

    Raises:
        BridgeError: the first such thing.
    """
    if train["packing"]:
        raise BridgeError("train.packing: a step of trainer=bridge is batch_size padded rows; set "
                          "it to false, or use trainer=megatron")
    rows, step = train["batch_size"], layout.micro_batch * layout.data
    if rows % step:
        raise BridgeError(f"train.batch_size = {rows} is not a multiple of micro_batch x data "
                          f"parallel ranks = {layout.micro_batch} x {layout.data}")
    lora = train["lora"]
    asked = {lora["targets"]} if isinstance(lora["targets"], str) else set(lora["targets"])
    if lora.get("ranks") or asked & set(ELSEWHERE):
        raise BridgeError("train.lora: Megatron-Bridge has one rank for all, one adapter for all "
                          "experts of a GPU, and no export of the head's; leave out ranks, "
                          f"{' and '.join(ELSEWHERE)}, or use trainer=megatron")
    rank = lora["rank"]
    if rank % layout.tensor:
        raise BridgeError(f"train.lora.rank = {rank} is not a multiple of tensor = "
                          f"{layout.tensor}, over which Megatron-Bridge divides it")
    pattern = config.hybrid_override_pattern
    divided = {f"{len(pattern)} layers": (len(pattern), layout.pipeline)}
    if "M" in pattern:
        divided |= {"n_groups": (config.n_groups, layout.tensor),
                    "mamba_num_heads": (config.mamba_num_heads, layout.tensor)}
    if "E" in pattern:
        divided["n_routed_experts"] = (config.n_routed_experts, layout.expert)
    for name, (size, ranks) in divided.items():
        if size % ranks:
            raise BridgeError(f"{name} = {size} cannot be divided among {ranks} ranks")
