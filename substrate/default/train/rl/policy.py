"""The model of a run with stages: trains as trainer=peft does, and is sampled and asked for
log-probabilities between steps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from train.batching import Batch, Example, collate
from train.peft_backend import PeftBackend, Precision
from train.rl.losses import Judged, log_probabilities, loss
from train.rl.plan import settings
from train.rl.sampling import Answer, sample
from train.run import Run

if TYPE_CHECKING:
    from collections.abc import Iterator

SCORED = 64  # answers that are scored together


class PolicyBackend(PeftBackend):
    """A PeftBackend whose state also holds the reference of a GRPO stage, if it has one."""

    def __init__(self, run: Run, precision: Precision | None = None) -> None:
        """As PeftBackend's.

        Raises:
            ModelError: the base cannot be loaded, or not be trained so.
        """
        super().__init__(run, precision)
        self.base = run.base
        self.rl = settings(run.recipe["train"])
        self.reference: dict[str, Tensor] | None = None

    def forward_backward(self, batch: Batch, step: int) -> Tensor:
        """The batch's loss by its method; its gradients are added."""
        if not isinstance(batch, Judged):
            return super().forward_backward(batch, step)
        value = loss(self.model, batch, self.rl)
        value.backward()
        return value.detach()

    def sample(self, prompts: Sequence[list[int]], eos_ids: Sequence[int], max_new: int,
               seed: int) -> list[Answer]:
        """One answer to each prompt."""
        return sample(self.model, self.base, prompts, eos_ids, max_new, self.rl["temperature"],
                      seed)

    @torch.no_grad()
    def scored(self, examples: Sequence[Example], pad_id: int,
               temperature: float) -> list[list[float]]:
        """Log-probabilities of each example's tokens but the first; 0 where they are not learned.
        Without dropout."""
        self.model.eval()
        found: list[list[float]] = []
        for start in range(0, len(examples), SCORED):
            some = examples[start : start + SCORED]
            rows = log_probabilities(self.model, collate(some, pad_id), temperature).tolist()
            found += [row[: len(one.ids) - 1] for row, one in zip(rows, some, strict=True)]
        self.model.train()
        return found

    def refer(self) -> None:
        """From now on the reference is the adapter as it is."""
        self.reference = {name: p.detach().clone() for name, p in self.parameters.items()}

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """The model with the reference in place of the adapter."""
        assert self.reference is not None
        own = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._put(self.reference)
        try:
            yield
        finally:
            self._put(own)

    def save_state(self, record: dict[str, Any]) -> None:
        """As PeftBackend's, and the reference."""
        super().save_state(record | {"reference": self.reference})

    def load_state(self, identity: dict[str, Any]) -> dict[str, Any] | None:
        """Take up the file, if there is one.

        Raises:
            StateError: it is another run's.
        """
        state = super().load_state(identity)
        if state is not None:
            self.reference = state["reference"]
        return state

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])
