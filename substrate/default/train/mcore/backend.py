"""trainer=megatron: a megatron-core model, divided among ranks (a train.loop.Backend).

Every rank takes its own rows of the batch that all know, so the loss does not depend on the layout
beyond rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from eval.chat import Chat
from megatron.core import parallel_state
from torch import Tensor, nn

from train import checkpoint, loop
from train.batching import Batch, Row
from train.mcore import export, lora, model, prompts, state, weights
from train.mcore.grouped import method
from train.mcore.layout import Layout
from train.mcore.lora import Adapted
from train.mcore.mixer import kernels
from train.mcore.pipeline import forward_backward, split
from train.mcore.ranks import Group
from train.peft_format import check_loadable, peft_config
from train.run import Run


def execute(run: Run, layout: Layout, device: torch.device) -> dict[str, Any]:
    """Train, or go on, or find it done; returns the content of result.json on every rank.

    Collective: every rank of the process group calls it with the same arguments.

    Raises:
        StateError, DataError, ModelError, TargetError, LayoutError, ChatError, OSError: one line
            each.
    """
    ranks = Group()

    def start(rows: Sequence[Row], chat: Chat) -> MegatronBackend:
        ranks.shared(lambda: prompts.check(rows, chat, run.base))
        return MegatronBackend(run, layout, device, ranks)

    return loop.execute(run, ranks, start)


class MegatronBackend:
    """This rank's part of the model, its adapters and its optimiser.

    Dropout is a function of seed, step and rank: no generator's state needs to be kept.
    """

    def __init__(self, run: Run, layout: Layout, device: torch.device, ranks: Group) -> None:
        """Load this rank's part of the base; the run's seed decides the adapter's initial values.

        Raises:
            ModelError, TargetError, LayoutError: the base cannot be loaded, or not be divided so.
        """
        self.run, self.layout, self.device, self.ranks = run, layout, device, ranks
        self.lora: dict[str, Any] = run.recipe["train"]["lora"]
        self.folder = run.out / "state"
        self.config = model.read_config(run.base)
        self.model = model.build(self.config, layout)
        weights.load(self.model, self.config, run.base)
        self.adapted = lora.inject(self.model, self.config, self.lora, run.seed)
        self.model.to(device)
        self._check()
        own = [parameter for _, _, parameter in self._halves()]
        self.optimizer: torch.optim.Optimizer = loop.adamw(
            own or [nn.Parameter(torch.zeros(1))], run.recipe["train"]  # a stage without adapters
        )
        self.model.train()

    def _check(self) -> None:
        shapes = {name: tuple(tensor.shape) for name, tensor in self._gathered().items()}
        self.ranks.shared(lambda: check_loadable(self.run.base, self.lora, shapes))

    def _gathered(self) -> dict[str, Tensor]:
        return export.gather(self.adapted, self.config)

    def _halves(self) -> Iterator[tuple[Adapted, str, nn.Parameter]]:
        """Every trained matrix of this rank: where it is, which half of the pair, itself."""
        for item in self.adapted:
            for half, parameter in item.halves():
                yield item, half, parameter

    def forward_backward(self, batch: Batch, step: int) -> Tensor:
        """The whole batch's mean loss; its gradients are those of the whole batch."""
        torch.manual_seed(
            (self.run.seed * 1_000_003 + step) * 4099 + parallel_state.get_data_parallel_rank()
        )
        parts, total = split(batch, self.layout, self.device)
        loss = _over_ranks(forward_backward(self.model, parts, total, True))
        lora.reduce_gradients(self.adapted)
        return loss

    def clip(self, limit: float) -> float:
        """The norm of the whole model's gradients before they were scaled to at most `limit`."""
        norm = self._norm()
        scale = min(1.0, limit / (norm + 1e-6)) if math.isfinite(norm) else 1.0
        if scale < 1.0:
            for _, _, parameter in self._halves():
                if parameter.grad is not None:
                    parameter.grad.mul_(scale)
        return norm

    def _norm(self) -> float:
        squares = lora.squared_norm(self.adapted, self.device).item()
        return math.sqrt(squares) if squares >= 0 else math.nan

    def export(self, folder: Path) -> None:
        """Write the adapter, put together from all ranks."""
        tensors = self._gathered()
        if self.ranks.first:
            checkpoint.write_adapter(tensors, peft_config(self.lora, tensors), folder)

    def save_state(self, record: dict[str, Any]) -> None:
        """Adapter and optimiser in megatron's sharded format, and the record."""
        state.save(self.folder, record["progress"]["step"], self.adapted, self.optimizer, record)

    def load_state(self, identity: dict[str, Any]) -> dict[str, Any] | None:
        """Take up the newest whole state, whatever layout wrote it.

        Raises:
            StateError: it is another run's.
        """
        found = state.latest(self.folder)
        if found is None:
            return None
        checkpoint.same_run(self.folder, found["identity"], identity)
        state.load(self.folder / found["folder"], self.adapted, self.optimizer,
                   found["progress"]["step"])
        return found

    def amend_state(self, record: dict[str, Any]) -> None:
        """The record alone."""
        if self.ranks.first:
            state.amend(self.folder, record)

    def size(self) -> int:
        """Trained parameters of the whole model."""
        return lora.size(self.adapted, self.device)

    def paths(self) -> dict[str, str]:
        """Of Mamba layers, and of routed experts where there are any."""
        found = kernels(self.device.type).names
        if "E" in self.config.hybrid_override_pattern:
            widths = self.config.hidden_size, self.config.moe_intermediate_size
            found |= {"experts": method(self.device.type, self.layout.dtype, *widths)}
        return found

    def describe(self) -> dict[str, Any]:
        """Its name, and how it was divided."""
        return {"trainer": "megatron",
                "layout": vars(self.layout) | {"processes": dist.get_world_size()}}


def _over_ranks(share: Tensor) -> Tensor:
    """The loss of the whole batch, on every rank: shares of data-parallel ranks and stages."""
    for group in (parallel_state.get_data_parallel_group(with_context_parallel=True),
                  parallel_state.get_pipeline_model_parallel_group()):
        if group.size() > 1:
            dist.all_reduce(share, group=group)
    return share
