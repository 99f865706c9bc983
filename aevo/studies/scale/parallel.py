"""How a training is divided over GPUs, as conf/trainer, conf/model and conf/cluster choose it."""

from dataclasses import dataclass, replace
from typing import Any

from aevo.config.cluster import SlurmCluster
from aevo.config.schema import Config
from aevo.files.keys import flatten, set_key
from aevo.records.job import JobKind, Resources
from aevo.studies.scale.adapter import Adapter, adapter_of
from aevo.studies.scale.architecture import Architecture, Weight, ends, layer, prediction
from aevo.studies.scale.assumptions import Assumptions
from aevo.substrate import recipe as change
from aevo.substrate.frozen import source_of

# tensor, pipeline, expert, and what is computed anew in the backward pass, of Megatron-Bridge's
# LoRA recipes (recipes/nemotronh/h100) by the model's width: trainer=bridge takes them where its
# options are 0.
BRIDGE = {
    2688: (1, 1, 8, frozenset[str]()),
    4096: (8, 1, 16, frozenset[str]()),
    8192: (2, 4, 8, frozenset({"moe", "layernorm"})),
}
# What trainer=megatron computes anew, by its option.
RECOMPUTE = {
    "none": frozenset[str](),
    "selective": frozenset({"scan", "experts"}),
    "full": frozenset({"layer"}),
}
LONG = 0.25  # of a step: pipeline stages that wait longer are noted
ROWS = ("out_proj", "o_proj", "down_proj")  # split over ranks by their inputs


@dataclass(frozen=True)
class Division:
    """One training.

    Attributes:
        gpus: a node; micro_rows: rows of a forward pass; number_bytes: of a base weight and of an
            activation; adapter_bytes: of a trained parameter; main_bytes: of its fp32 copy and of
            Adam's moments; shared_optimizer: these are divided over data-parallel ranks;
        all_gather: experts get all tokens of their group, not only their own;
        gpipe: a step's microbatches are all held at once;
        recompute: what is computed anew in the backward pass;
        problems: why it cannot be, notes: what it wastes, one line each.
    """

    trainer: str
    nodes: int
    gpus: int
    ranks: int
    tensor: int
    pipeline: int
    expert: int
    rows: int
    micro_rows: int
    row_tokens: int
    adapter: Adapter
    number_bytes: int = 2
    adapter_bytes: int = 4
    main_bytes: int = 8
    shared_optimizer: bool = False
    all_gather: bool = False
    gpipe: bool = False
    mtp: bool = False
    recompute: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def data(self) -> int:
        """Groups of ranks that share out the rows of a batch."""
        return max(self.ranks // (self.tensor * self.pipeline), 1)

    @property
    def microbatches(self) -> int:
        """Forward passes of a rank in a step."""
        return -(-self.rows // (self.data * self.micro_rows))

    def queued(self, stage: int) -> int:
        """Microbatches whose activations a stage holds at a time (else 1F1B)."""
        held = self.microbatches if self.gpipe else self.pipeline - stage
        return min(self.microbatches, held)

    @property
    def micro_tokens(self) -> int:
        """Positions of a forward pass."""
        return self.micro_rows * self.row_tokens

    def stages(self, model: Architecture) -> list[list[Weight]]:
        """Weights of each pipeline stage; the last has the block of multi-token prediction and,
        for it, the embedding again."""
        before, after = ends(model)
        size = -(-len(model.pattern) // self.pipeline)
        found = [
            [
                weight
                for kind in model.pattern[start : start + size]
                for weight in layer(model, kind)
            ]
            for start in range(0, len(model.pattern), size)
        ]
        found[0] = [*before, *found[0]]
        found[-1] += after
        if self.mtp:
            found[-1] += [*prediction(model), *(before if self.pipeline > 1 else [])]
        return found

    def share(self, weight: Weight) -> float:
        """The part of a weight that one rank holds."""
        return {"tensor": 1 / self.tensor, "expert": 1 / self.expert, "whole": 1.0}[weight.split]

    def adapter_share(self, weight: Weight) -> float:
        """Trained parameters on a weight that one rank holds."""
        whole = self.adapter.trained(weight, self.expert)
        if weight.split == "expert" or not whole:
            return whole / self.expert
        split = weight.inputs if weight.leaf in ROWS else weight.outputs
        return whole - self.adapter.rank_on(weight) * split * (1 - 1 / self.tensor)


def of(
    config: Config, model: Architecture, recipe: dict[str, Any], assumed: Assumptions
) -> Division:
    """The layout that a training of this configuration has.

    Args:
        recipe: the `train` section.
    """
    trainer, options = config.trainer.name, config.trainer.options
    asked = resources(config, "train")
    lora, rows = recipe["lora"], int(recipe["batch_size"])
    adapter = adapter_of(lora, model)
    common: dict[str, Any] = {
        "trainer": trainer,
        "nodes": asked.nodes,
        "gpus": asked.gpus,
        "rows": rows,
        "ranks": asked.nodes * asked.tasks_per_node,
    }
    if trainer == "bridge":
        tensor, pipeline, expert, recompute = BRIDGE.get(model.hidden, (1, 1, 1, frozenset[str]()))
        found = Division(
            **common,
            tensor=int(options["tensor"]) or tensor,
            pipeline=int(options["pipeline"]) or pipeline,
            expert=int(options["expert"]) or expert,
            micro_rows=int(options["micro_batch"]),
            row_tokens=min(assumed.row(config.model.preset), int(options["sequence"])),
            adapter=replace(adapter, fused=True),
            adapter_bytes=2,
            main_bytes=12,
            shared_optimizer=True,
            recompute=recompute,
        )
    elif trainer == "megatron":
        pieces = int(options["tensor"]) * int(options["pipeline"])
        per_rank = -(-rows // max(common["ranks"] // pieces, 1))
        row_tokens, budget = assumed.row(config.model.preset), int(options["micro_tokens"])
        most = max(budget // row_tokens, 1) if budget else per_rank
        found = Division(
            **common,
            tensor=int(options["tensor"]),
            pipeline=int(options["pipeline"]),
            expert=int(options["expert"]),
            row_tokens=row_tokens,
            micro_rows=min(int(options["micro_batch"]) or per_rank, per_rank, most),
            adapter=replace(adapter, fused=True),
            recompute=RECOMPUTE[str(options["recompute"])],
            gpipe=int(options["pipeline"]) > 1,
            number_bytes=2 if options["precision"] == "bf16" else 4,
        )
    else:  # one process
        found = Division(
            **(common | {"ranks": 1}),
            tensor=1,
            pipeline=1,
            expert=1,
            micro_rows=rows,
            row_tokens=assumed.row(config.model.preset),
            adapter=adapter,
            number_bytes=2 if options.get("precision") == "bf16" else 4,
            recompute=RECOMPUTE[str(options.get("recompute", "none"))],
        )
    return replace(found, problems=tuple(_problems(found, model)), notes=tuple(_notes(found)))


def resources(config: Config, kind: JobKind) -> Resources:
    """What a training or an evaluation asks of the cluster."""
    asked = config.trainer.over(config.model.train) if kind == "train" else config.model.evaluate
    if not isinstance(config.cluster, SlurmCluster):
        return asked
    options = config.cluster.options(kind, asked)
    given = {
        key: getattr(options, key)
        for key in ("nodes", "tasks_per_node", "gpus", "memory_gb", "time_min")
    }
    return asked.model_copy(update={k: v for k, v in given.items() if v is not None})


def standing_recipe(config: Config) -> dict[str, Any]:
    """The recipe's `train` section in round 1: the substrate's, with the model's changes."""
    found = source_of(config)
    recipe = change.load_recipe(found.root / found.file.recipe)
    for key, value in flatten(config.model.recipe).items():
        set_key(recipe, key, value)
    section: dict[str, Any] = recipe["train"]
    return section


def _problems(layout: Division, model: Architecture) -> list[str]:
    found = []
    gpus, pieces = layout.nodes * layout.gpus, layout.tensor * layout.pipeline
    if layout.gpus and layout.ranks > gpus:
        found.append(f"{layout.ranks} ranks for {gpus} GPU(s)")
    least = layout.pipeline * max(layout.tensor, layout.expert)
    if layout.ranks % pieces or layout.ranks % least:
        found.append(
            f"{layout.ranks} ranks cannot be divided into tensor {layout.tensor} x "
            f"pipeline {layout.pipeline} x expert {layout.expert}, which takes a multiple "
            f"of {least}"
        )
    if len(model.pattern) % layout.pipeline:
        found.append(f"pipeline {layout.pipeline} does not divide {len(model.pattern)} layers")
    if model.experts and model.experts.count % layout.expert:
        found.append(f"expert {layout.expert} does not divide {model.experts.count} experts")
    if model.mamba and model.mamba.groups % layout.tensor:
        found.append(f"tensor {layout.tensor} does not divide {model.mamba.groups} Mamba groups")
    if layout.trainer == "megatron" and model.experts and model.experts.latent:
        found.append("trainer=megatron refuses latent experts")
    if layout.trainer == "megatron" and model.kv_heads % layout.tensor:
        found.append(f"tensor {layout.tensor} does not divide {model.kv_heads} key-value heads")
    return found


def _notes(layout: Division) -> list[str]:
    found = []
    gpus = layout.nodes * layout.gpus
    if layout.ranks < gpus:
        found.append(
            f"{gpus - layout.ranks} of the training's {gpus} GPUs idle: {layout.ranks} rank(s)"
        )
    waits = (layout.pipeline - 1) / (layout.microbatches + layout.pipeline - 1)
    if waits > LONG:
        found.append(
            f"pipeline stages wait {100 * waits:.0f} % of a step: more rows a batch, or "
            "fewer stages"
        )
    if layout.rows < layout.data:
        found.append(
            f"{layout.data - layout.rows} of {layout.data} data-parallel groups have no "
            "row of a batch"
        )
    return found
