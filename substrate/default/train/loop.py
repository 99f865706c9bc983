"""The training loop: steps, metrics, checkpoints, and going on after a kill; one for all trainers.

What differs between trainers is behind two protocols: `Backend` is a model with its adapter, its
optimiser and the state of both; `Ranks` are the processes that share a run. Every rank knows the
whole plan and the whole batch, so a resumed run needs only its step number; the first rank writes.
(trainer=bridge has Megatron-Bridge's own loop.)
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import torch
from eval.adapter import base_digest
from eval.chat import Chat, load_chat
from torch import Tensor, nn

from train import checkpoint, schedule
from train.batching import Batch, Row, read_rows
from train.run import Progress, Run, Ticker, checkpoint_folder, checkpoint_steps, result_record

STATE_STEPS = 25  # the state is written at least this often ...
STATE_SECONDS = 20.0  # ... and on slow models at least this often

T = TypeVar("T")


class Ranks(Protocol):
    """The processes of a run. Every method is collective: all ranks call it, or none does."""

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""

    def shared(self, make: Callable[[], T]) -> T:
        """What the first rank makes of it, or raises (OSError, ValueError), on every rank."""

    def any(self, here: bool) -> bool:
        """Whether it is so on any rank: clocks differ, decisions must not."""

    def barrier(self) -> None:
        """Wait for all."""


class Alone:
    """The only process of its run."""

    first = True

    def shared(self, make: Callable[[], T]) -> T:
        """What it makes."""
        return make()

    def any(self, here: bool) -> bool:
        """Itself."""
        return here

    def barrier(self) -> None:
        """Nobody to wait for."""


class Backend(Protocol):
    """This rank's part of a model with a fresh adapter, ready to train.

    Every method is collective. A *record* is what the loop wants kept in a state: plain values
    under `identity`, `progress` and `resumed_from`.
    """

    optimizer: torch.optim.Optimizer

    def forward_backward(self, batch: Batch, step: int) -> Tensor:
        """The loss of a batch at 0-based `step`, the same on every rank; its gradients are added
        and are those of the whole batch."""

    def clip(self, limit: float) -> float:
        """Scale gradients so that their norm over the whole model is at most `limit`; returns it
        as it was."""

    def export(self, folder: Path) -> None:
        """Write the adapter in peft's format: whole or not at all."""

    def save_state(self, record: dict[str, Any]) -> None:
        """Replace the state: all that the next step depends on, and the record."""

    def load_state(self, identity: dict[str, Any]) -> dict[str, Any] | None:
        """Take up the state that was saved; its record, None where there is no state.

        Raises:
            StateError: it is another run's.
        """

    def amend_state(self, record: dict[str, Any]) -> None:
        """Give the state that was just loaded another record."""

    def size(self) -> int:
        """Trained parameters of the whole model."""

    def describe(self) -> dict[str, Any]:
        """What result.json says of the trainer."""

    def paths(self) -> dict[str, str]:
        """Which way costly operations go, by what is installed here: slow ways are not silent."""


Start = Callable[[Sequence[Row], Chat], Backend]


def execute(
    run: Run, ranks: Ranks, start: Start, trainer: type[Trainer] | None = None
) -> dict[str, Any]:
    """Train, or go on, or find it done; returns the content of result.json on every rank.

    Args:
        start: gives the backend; may refuse the rows first.
        trainer: what goes through the steps; the recipe's stages have their own.

    Raises:
        StateError, DataError, ChatError, OSError: one line each; and what `start` raises.
    """
    identity = ranks.shared(lambda: run.identity(base_digest(run.base)))
    run.out.mkdir(parents=True, exist_ok=True)
    done = ranks.shared(lambda: checkpoint.load_result(run.out / "result.json", identity))
    if done is not None:
        return done
    if ranks.first:
        checkpoint.remove_temporaries(run.out)
    ranks.barrier()
    prepare_torch(run.threads)
    result = (trainer or Trainer)(run, identity, ranks, start).train()
    if ranks.first:
        checkpoint.write_json(run.out / "result.json", result)
    ranks.barrier()
    return result


def prepare_torch(threads: int) -> None:
    """Threads, and the same bits from the same run."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Only matters for code that reads uninitialised memory, and costs time at every allocation.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def adamw(parameters: Iterable[nn.Parameter], options: dict[str, Any]) -> torch.optim.AdamW:
    """The optimiser of the recipe's `train` section; the loop sets its rate before every step."""
    chosen = options["optimizer"]
    return torch.optim.AdamW(
        list(parameters), lr=options["learning_rate"], betas=(chosen["beta1"], chosen["beta2"]),
        weight_decay=chosen["weight_decay"],
    )


class Trainer:
    """One rank's part of a run: data and backend in memory, and the loop over them."""

    def __init__(self, run: Run, identity: dict[str, Any], ranks: Ranks, start: Start) -> None:
        self.run, self.identity, self.ranks = run, identity, ranks
        self.options: dict[str, Any] = run.recipe["train"]
        self.steps: int = self.options["steps"]
        self.marks = set(checkpoint_steps(self.steps, self.options["checkpoints"]))
        self.metrics = run.out / "metrics.jsonl"
        self.ticker = Ticker(self.steps)
        chat = load_chat(run.base)
        rows = read_rows(run.data)
        self.course = run.course(rows, chat)
        self.backend = start(rows, chat)
        self.progress = Progress()
        self.resumed_from: list[int] = []
        self.saved = math.nan

    def train(self) -> dict[str, Any]:
        """Run what is left of the steps; returns the result record."""
        self._resume()
        self.saved = time.perf_counter()
        status, told = "ok", self._tell_paths()
        lines = self.metrics if self.ranks.first else Path(os.devnull)
        with lines.open("a", encoding="utf-8") as metrics:
            while not self._finished():
                record = self._step()
                metrics.write(json.dumps(record | told) + "\n")
                told = {}
                metrics.flush()
                if record["loss"] is None or record["grad_norm"] is None:
                    status = "diverged"
                    break
                self._keep(metrics)
                if self.ranks.first:
                    self.ticker.tell(record)
        return result_record(self.run, status, self.progress, self.resumed_from,
                             self.backend.size(), self.backend.describe() | self.identity,
                             self.marks)

    def _finished(self) -> bool:
        return self.progress.step >= self.steps

    def _next(self) -> tuple[Batch, float]:
        """What the next step learns, and its learning rate."""
        step = self.progress.step
        return self.course.batch(step), schedule.rate(self.options, step)

    def _tell_paths(self) -> dict[str, Any]:
        """Once a start: printed, and for the first line that it adds to metrics.jsonl."""
        paths = self.backend.paths()
        if self.ranks.first and paths:
            print(", ".join(f"{what}: {way}" for what, way in paths.items()), flush=True)
        return {"paths": paths} if paths else {}

    def _step(self) -> dict[str, Any]:
        """One optimiser step; returns its line of metrics.jsonl."""
        begin = time.perf_counter()
        step, backend = self.progress.step, self.backend
        batch, rate = self._next()
        for group in backend.optimizer.param_groups:
            group["lr"] = rate
        value = backend.forward_backward(batch, step)
        norm = backend.clip(self.options["optimizer"]["clip"] or math.inf)
        loss = value.item()  # not before: a GPU would be waited for between the two
        if math.isfinite(loss) and math.isfinite(norm):
            backend.optimizer.step()
        backend.optimizer.zero_grad(set_to_none=True)
        return self.progress.advance(loss, rate, norm, batch.tokens, time.perf_counter() - begin)

    def _keep(self, metrics: IO[str]) -> None:
        """Write adapter and state, where the step just done asks for them."""
        step = self.progress.step
        if step in self.marks:
            self.backend.export(checkpoint_folder(self.run.out, step))
        late = time.perf_counter() - self.saved > STATE_SECONDS
        if step in self.marks or step % STATE_STEPS == 0 or self.ranks.any(late):
            if self.ranks.first:
                os.fsync(metrics.fileno())  # the metrics reach at least as far as the state
            self.backend.save_state(self._record())
            self.saved = time.perf_counter()

    def _resume(self) -> None:
        """Go on from the state, or make sure that nothing of an earlier start remains."""
        found = self.backend.load_state(self.identity)
        if found is None:
            if self.ranks.first:
                self.metrics.unlink(missing_ok=True)
            return
        self._restore(found)
        self.resumed_from = [*found["resumed_from"], self.progress.step]
        if self.ranks.first:
            checkpoint.trim_metrics(self.metrics, self.progress.step)
        # Now: a kill before the next state must not lose this resumption.
        self.backend.amend_state(self._record())
        if self.ranks.first:
            print(f"resumed after step {self.progress.step}", flush=True)
        self.ranks.barrier()

    def _restore(self, found: dict[str, Any]) -> None:
        """Take up what `_record` put into a state."""
        self.progress = Progress(**found["progress"])

    def _record(self) -> dict[str, Any]:
        """What a state holds besides the backend's own."""
        return {"identity": self.identity, "progress": vars(self.progress).copy(),
                "resumed_from": self.resumed_from}
