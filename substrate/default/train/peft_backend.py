"""trainer=peft: transformers and peft, one process, any causal language model that they load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train import checkpoint, loop, model
from train.batching import Batch
from train.rl.plan import staged
from train.run import Run


@dataclass(frozen=True)
class Precision:
    """How the base is held: conf/trainer/peft.yaml. `recompute`: none, or full, where the backward
    pass computes each layer anew from its input."""

    name: str = "fp32"
    recompute: str = "none"

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[self.name]


def execute(run: Run, precision: Precision | None = None) -> dict[str, Any]:
    """Train, or go on, or find it done; returns the content of result.json.

    Raises:
        StateError, DataError, ModelError, ChatError, OSError: one line each.
    """
    if staged(run.recipe["train"]):
        from train.rl.trainer import execute as execute_stages

        return execute_stages(run, precision)
    return loop.execute(run, loop.Alone(), lambda rows, chat: PeftBackend(run, precision))


class PeftBackend:
    """The model, its adapter and its optimiser in this process; a train.loop.Backend.

    The state is one file. It holds the state of the random generators too, which dropout draws
    from.
    """

    def __init__(self, run: Run, precision: Precision | None = None) -> None:
        """Load the base; the run's seed decides the adapter's initial values.

        Raises:
            ModelError: the base cannot be loaded, or not be trained so.
        """
        options = run.recipe["train"]
        self.path = run.out / "state" / "state.pt"
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model.check_packing(run.base, options["packing"])
        self.precision = precision or Precision()
        dtype = self.precision.dtype
        self.model = model.load(run.base, options["lora"], run.seed, device, dtype)
        if self.precision.recompute == "full":
            model.checkpoint_layers(self.model)
        self.parameters = model.trainable(self.model)
        self.optimizer: torch.optim.Optimizer = loop.adamw(self.parameters.values(), options)
        self.model.train()

    def forward_backward(self, batch: Batch, step: int) -> Tensor:
        """The batch's mean loss; its gradients are added."""
        loss = model.loss(self.model, batch)
        loss.backward()
        return loss.detach()

    def clip(self, limit: float) -> float:
        """The norm of all gradients before they were scaled to at most `limit`."""
        return torch.nn.utils.clip_grad_norm_(self.parameters.values(), limit).item()

    def export(self, folder: Path) -> None:
        """Write the adapter."""
        checkpoint.save_adapter(self.model, folder)

    def save_state(self, record: dict[str, Any]) -> None:
        """Adapter, optimiser, random generators and the record, in one file."""
        checkpoint.save_state(self.path, record | {
            "adapter": {name: p.detach() for name, p in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        })

    def load_state(self, identity: dict[str, Any]) -> dict[str, Any] | None:
        """Take up the file, if there is one.

        Raises:
            StateError: it is another run's.
        """
        state = checkpoint.load_state(self.path, identity)
        if state is None:
            return None
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state["adapter"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if torch.cuda.is_available() and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"])
        return state

    def amend_state(self, record: dict[str, Any]) -> None:
        """The whole file again: it is small."""
        self.save_state(record)

    def size(self) -> int:
        """Trained parameters."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    def paths(self) -> dict[str, str]:
        """Of a recurrent model's layers and of routed experts, as transformers chooses."""
        return model.paths(self.model)

    def describe(self) -> dict[str, Any]:
        """Nothing of the default; how the base is held where that is another way."""
        own = vars(self.precision)
        return {"trainer": "peft", "precision": own} if self.precision != Precision() else {}
