"""One run through Megatron-Bridge: its recipe, our settings, our rows, our files.

Every rank reads recipe, rows and base itself and comes to the same settings; Megatron-Bridge joins
the ranks. From then on `Recorder`, called by its training loop, sets the learning rate of each step
and writes what the other trainers write. Rank 0 writes.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from eval.adapter import AdapterError, base_shapes, load_adapter
from eval.chat import load_chat
from megatron.bridge import AutoBridge
from megatron.bridge.training.callbacks import Callback, CallbackContext
from megatron.bridge.training.config import DatasetBuildContext, DatasetProvider
from megatron.bridge.training.finetune import finetune
from megatron.bridge.training.gpt_step import forward_step

from train import checkpoint, schedule
from train.batching import read_rows
from train.mcore import names, prompts
from train.nemo_bridge import adapter, family, gather, imported
from train.nemo_bridge.family import BridgeError, Family, Layout
from train.nemo_bridge.overrides import apply, overrides, patterns
from train.nemo_bridge.progress import Log
from train.nemo_bridge.rows import Rows, row_length
from train.peft_format import check_loadable, peft_config
from train.run import Run, checkpoint_folder, checkpoint_steps

LOSS = "lm loss"  # Megatron-Bridge's name for it


class Diverged(Exception):
    """Loss or gradient is not finite; raised on every rank at the same step."""


@dataclass
class OurRows(DatasetProvider):
    """The dataset of a configuration. `rows` is no field: Megatron-Bridge stores those as text."""

    seq_length: int = 0

    def build_datasets(self, context: DatasetBuildContext) -> tuple[Rows, None, None]:
        """Training rows; validation and test are the evaluation's."""
        return self.rows, None, None

    def of(self, rows: Rows) -> OurRows:
        """Itself, for these rows."""
        self.rows = rows
        return self


@dataclass(frozen=True)
class Prepared:
    """What every rank derives from the run's files before the ranks are joined."""

    config: Any  # of the base
    family: Family
    layout: Layout
    rows: Rows
    tokens: list[int]  # of every step, without padding
    leaves: set[str]  # mcore's linear layers with an adapter
    expected: dict[str, tuple[int, ...]]  # tensors of the adapter
    shapes: dict[str, tuple[int, ...]]  # tensors of the base
    identity: dict[str, Any]


def execute(run: Run, asked: tuple[int, int, int], sequence: int, micro_batch: int, wanted: str,
            imported_at: Path) -> dict[str, Any]:
    """Train, or go on, or find it done; returns the content of result.json (on rank 0; on others
    its status and steps).

    Args:
        asked: tensor, pipeline, expert; 0: NVIDIA's own.
        sequence: most tokens of a row; wanted: `auto` or a family.

    Raises:
        BridgeError, ChatError, DataError, ModelError, StateError, TargetError: one line each.
    """
    sizes = (asked, sequence, micro_batch, int(os.environ.get("WORLD_SIZE", "1")))
    prepared = prepare(run, wanted, sizes, imported_at)
    done = checkpoint.load_result(run.out / "result.json", prepared.identity)
    if done is not None:
        return done
    first = os.environ.get("RANK", "0") == "0"
    log = Log(run, prepared.identity, prepared.tokens)
    if first:
        check_loadable(run.base, run.recipe["train"]["lora"], prepared.expected)
        log.open()
    name, config = configuration(run, prepared, imported_at)
    recorder = Recorder(run, prepared, log if first else None)
    status = "ok"
    try:
        finetune(config, forward_step, callbacks=[recorder])
    except Diverged:  # otherwise Megatron-Bridge itself leaves the group that it made
        status = "diverged"
        if dist.is_initialized():
            dist.destroy_process_group()
    if not first:
        return {"status": status, "steps": recorder.step, "final_loss": recorder.loss}
    return log.finish(status, adapter.trained(prepared.expected), {
        "trainer": "bridge", "bridge_recipe": name, "layout": vars(prepared.layout),
    })


def prepare(run: Run, wanted: str, sizes: tuple[tuple[int, int, int], int, int, int],
            imported_at: Path) -> Prepared:
    """Check and read all that can be without other ranks.

    Args:
        sizes: (tensor, pipeline, expert), sequence, micro_batch, processes.

    Raises:
        As `execute`.
    """
    train = run.recipe["train"]
    config = family.read_config(run.base)
    found = family.recognise(config, wanted)
    layout = family.layout(found, *sizes)
    family.check(layout, config, train)
    leaves = names.targets(config, train["lora"]["targets"])
    weights = base_shapes(run.base)
    expected = adapter.shapes(adapter.modules(config, leaves), weights, train["lora"]["rank"])
    chat = load_chat(run.base)
    given = read_rows(run.data)
    prompts.check(given, chat, run.base)
    course = run.course(given, chat)
    length = row_length(course.examples, layout.sequence)
    return Prepared(
        config, found, layout, Rows(course.examples, course.plan, length, course.pad_id),
        [course.tokens(step) for step in range(len(course.plan))], leaves, expected, weights,
        run.identity(imported.digest(run.base, imported_at)),
    )


def configuration(run: Run, prepared: Prepared, imported_at: Path) -> tuple[str, Any]:
    """(name of the recipe, its configuration with our settings).

    Raises:
        BridgeError: this version of Megatron-Bridge lacks the recipe, or one of the settings.
    """
    name, config = official(prepared.family, run.base)
    train = run.recipe["train"]
    apply(config, overrides(
        train, prepared.layout, length=prepared.rows.length, seed=run.seed, base=run.base,
        imported=imported_at, state=run.out / "state", targets=patterns(prepared.leaves),
    ))
    for field in ("hidden_size", "num_layers"):
        ours = {"hidden_size": prepared.config.hidden_size,
                "num_layers": len(prepared.config.hybrid_override_pattern)}[field]
        if getattr(config.model, field) != ours:
            raise BridgeError(f"{name} is for {field} = {getattr(config.model, field)}, the base "
                              f"has {ours}")
    config.dataset = OurRows(
        seq_length=prepared.rows.length, dataloader_type="single", num_workers=0,
        persistent_workers=False, pin_memory=torch.cuda.is_available(),
    ).of(prepared.rows)
    for key, value in getattr(config, "env_vars", {}).items():  # of recipes from 0.6 on
        os.environ.setdefault(key, str(value))
    return name, config


def official(found: Family, base: Path) -> tuple[str, Any]:
    """NVIDIA's recipe for the family, built from `base` where it reads a checkpoint's config: it
    would ask the hub otherwise.

    Raises:
        BridgeError: there is none in this version.
    """
    for module_name, function in found.recipes:
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and module_name.startswith(error.name):
                continue
            raise
        recipe = getattr(module, function, None)
        if recipe is None:
            continue
        if found.name == "ultra":
            return function, recipe(hf_path=str(base))
        # The recipe for Super takes no path; the checkpoint's name is a constant of its module.
        source: Any = sys.modules[recipe.__module__]
        if hasattr(source, "NEMOTRON_3_SUPER_HF_MODEL_ID"):
            source.NEMOTRON_3_SUPER_HF_MODEL_ID = str(base)
        return function, recipe()
    raise BridgeError(f"this Megatron-Bridge has none of {', '.join(f for _, f in found.recipes)}; "
                      "0.5 (nemo:26.06) has all")


class Recorder(Callback):
    """Called by Megatron-Bridge's training loop on every rank."""

    def __init__(self, run: Run, prepared: Prepared, log: Log | None) -> None:
        self.run, self.prepared, self.log = run, prepared, log
        self.train = run.recipe["train"]
        self.marks = set(checkpoint_steps(self.train["steps"], self.train["checkpoints"]))
        self.bridge = AutoBridge.from_hf_pretrained(str(run.base))
        self.step = 0
        self.loss = math.nan
        self.rate = 0.0
        self.since = time.perf_counter()

    def on_train_start(self, context: CallbackContext) -> None:
        """The state is loaded, if there was one."""
        self.step = context.state.train_state.step
        if self.log:
            self.log.begin(self.step)

    def on_train_step_start(self, context: CallbackContext) -> None:
        """The rate of the step that comes; megatron's scheduler sets its own after each step."""
        self.rate = schedule.rate(self.train, self.step)
        for group in context.optimizer.param_groups:
            group["lr"] = self.rate
        self.since = time.perf_counter()

    def on_train_step_end(self, context: CallbackContext) -> None:
        """Metrics of the step; the adapter where one is due.

        Raises:
            Diverged: loss or gradient is not finite.
        """
        self.step += 1
        self.loss = _on_every_rank(context.loss_dict or {})
        norm = math.nan if context.grad_norm is None else float(context.grad_norm)
        if self.log:
            self.log.add(self.loss, self.rate, norm, time.perf_counter() - self.since)
        if not (math.isfinite(self.loss) and math.isfinite(norm)):
            raise Diverged
        if self.step in self.marks:
            self._export(context.model)

    def _export(self, model: Any) -> None:
        """Collective; rank 0 writes, then reads it back as the evaluation will.

        Raises:
            BridgeError: it is not the adapter that was trained, or would not be accepted.
        """
        exported = [(weight.param_name, weight.weight) for weight in
                    self.bridge.export_adapter_weights(model, cpu=True, show_progress=False)]
        in_proj = gather.in_proj(model, self.prepared.config)
        if self.log is None:
            return
        tensors = adapter.tidy(exported, in_proj, self.prepared.expected)
        folder = checkpoint_folder(self.run.out, self.step)
        checkpoint.write_adapter(tensors, peft_config(self.train["lora"], tensors), folder)
        try:
            load_adapter(folder, self.prepared.shapes)
        except AdapterError as error:
            raise BridgeError(f"{folder}: {error}") from error


def _on_every_rank(losses: dict[str, Any]) -> float:
    """The step's loss, which the ranks of the last pipeline stage alone know."""
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    pair = torch.zeros(2, dtype=torch.float64, device=device)
    if LOSS in losses:
        pair[0], pair[1] = float(losses[LOSS]), 1.0
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(pair)
    return float(pair[0] / pair[1])
