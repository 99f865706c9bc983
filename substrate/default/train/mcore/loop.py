"""The training loop of trainer=megatron. What it writes is what `train.loop` writes.

Every rank knows the whole plan and the whole batch and takes its own rows, so the loss does not
depend on the layout beyond rounding, and a resumed run needs only its step number. Rank 0 writes.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from eval.adapter import base_digest, file_sha256
from eval.chat import load_chat
from megatron.core import parallel_state
from torch import Tensor

from train import checkpoint, schedule
from train.batching import Batch, collate, pack, plan, read_rows, tokenize
from train.loop import (
    PACK_LENGTH,
    PROGRESS_SECONDS,
    STATE_SECONDS,
    STATE_STEPS,
    Progress,
    Run,
    checkpoint_folder,
    checkpoint_steps,
    prepare_torch,
    result_record,
)
from train.mcore import export, lora, model, prompts, state, weights
from train.mcore.layout import Layout
from train.mcore.pipeline import forward_backward, split
from train.peft_format import check_loadable, peft_config


def execute(run: Run, layout: Layout, device: torch.device) -> dict[str, Any]:
    """Train, or go on, or find it done; returns the content of result.json on every rank.

    Collective: every rank of the process group calls it with the same arguments.

    Raises:
        StateError, DataError, ModelError, TargetError, LayoutError, ChatError: one line each.
    """
    identity = _shared(lambda: {
        "seed": run.seed,
        "base_sha256": base_digest(run.base),
        "data_sha256": file_sha256(run.data),
        "recipe": run.recipe["train"] | {"order": run.recipe["data"]["order"]},
    })
    run.out.mkdir(parents=True, exist_ok=True)
    done: dict[str, Any] | None = _shared(
        lambda: checkpoint.load_result(run.out / "result.json", identity)
    )
    if done is not None:
        return done
    if dist.get_rank() == 0:
        checkpoint.remove_temporaries(run.out)
    dist.barrier()
    prepare_torch(run.threads)
    result = Trainer(run, layout, device, identity).train()
    if dist.get_rank() == 0:
        checkpoint.write_json(run.out / "result.json", result)
    dist.barrier()
    return result


def _shared(make: Callable[[], Any]) -> Any:
    """What rank 0 makes of it, or raises, on every rank."""
    made: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            made[0] = make()
        except (OSError, ValueError) as error:
            made[1] = error
    dist.broadcast_object_list(made, src=0)
    if made[1] is not None:
        raise made[1]
    return made[0]


def _any(here: bool) -> bool:
    """Whether it is so on any rank: clocks differ, decisions must not."""
    if dist.get_world_size() == 1:
        return here
    flags: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(flags, here)
    return any(flags)


def _over_ranks(share: Tensor) -> float:
    """The loss of the whole batch, on every rank: shares of data-parallel ranks and stages."""
    for group in (parallel_state.get_data_parallel_group(with_context_parallel=True),
                  parallel_state.get_pipeline_model_parallel_group()):
        if group.size() > 1:
            dist.all_reduce(share, group=group)
    return share.item()


class Trainer:
    """One rank's part of a run: data and model in memory, and the loop over them."""

    def __init__(self, run: Run, layout: Layout, device: torch.device,
                 identity: dict[str, Any]) -> None:
        self.run, self.layout, self.device, self.identity = run, layout, device, identity
        self.options: dict[str, Any] = run.recipe["train"]
        self.first = dist.get_rank() == 0
        self.started = time.perf_counter()
        chat = load_chat(run.base)
        self.pad_id = chat.pad_id
        rows = read_rows(run.data)
        _shared(lambda: prompts.check(rows, chat, run.base))
        self.examples = tokenize(rows, chat, self.options["loss"]["mask"])
        self.steps: int = self.options["steps"]
        shuffle = run.recipe["data"]["order"] == "shuffled"
        self.plan = plan(len(rows), self.options["batch_size"], self.steps, run.seed, shuffle)
        self.config = model.read_config(run.base)
        self.model = model.build(self.config, layout)
        weights.load(self.model, self.config, run.base)
        self.adapted = lora.inject(self.model, self.config, self.options["lora"], run.seed)
        self.model.to(device)
        self.parameters = [p for item in self.adapted for _, p in item.halves()]
        shapes = {name: tuple(t.shape)
                  for name, t in export.gather(self.adapted, self.config).items()}
        _shared(lambda: check_loadable(run.base, self.options["lora"], shapes))
        optimizer = self.options["optimizer"]
        self.optimizer = torch.optim.AdamW(
            self.parameters or [torch.zeros(1, requires_grad=True)],  # a stage without adapters
            lr=self.options["learning_rate"],
            betas=(optimizer["beta1"], optimizer["beta2"]),
            weight_decay=optimizer["weight_decay"],
        )
        self.progress = Progress()
        self.resumed_from: list[int] = []

    def train(self) -> dict[str, Any]:
        """Run what is left of the steps; returns the result record."""
        self._resume()
        marks = set(checkpoint_steps(self.steps, self.options["checkpoints"]))
        self.model.train()
        status = "ok"
        last_state = last_line = time.perf_counter()
        lines = self.run.out / "metrics.jsonl" if self.first else Path(os.devnull)
        with lines.open("a", encoding="utf-8") as metrics:
            while self.progress.step < self.steps:
                record = self._step()
                metrics.write(json.dumps(record) + "\n")
                metrics.flush()
                step = self.progress.step
                if record["loss"] is None or record["grad_norm"] is None:
                    status = "diverged"
                    break
                if step in marks:
                    self._export(step)
                waited = time.perf_counter() - last_state
                if step in marks or step % STATE_STEPS == 0 or _any(waited > STATE_SECONDS):
                    if self.first:
                        os.fsync(metrics.fileno())  # the metrics reach at least as far
                    self._save_state()
                    last_state = time.perf_counter()
                now = time.perf_counter()
                if self.first and (now - last_line > PROGRESS_SECONDS or step == self.steps):
                    self._print(record)
                    last_line = now
        return self._result(status)

    def _step(self) -> dict[str, Any]:
        """One optimiser step; returns its line of metrics.jsonl (None for a value not finite)."""
        begin = time.perf_counter()
        progress, options = self.progress, self.options
        batch = self._batch(self.plan[progress.step])
        shape = options["schedule"]
        rate = options["learning_rate"] * schedule.factor(
            progress.step, self.steps, shape["shape"], shape["warmup"], shape["final"]
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Dropout is a function of seed, step and rank: no generator's state needs to be kept.
        torch.manual_seed(
            (self.run.seed * 1_000_003 + progress.step) * 4099
            + parallel_state.get_data_parallel_rank()
        )
        parts, total = split(batch, self.layout.micro_batch, self.device)
        loss = _over_ranks(forward_backward(self.model, parts, total, True))
        self._reduce_gradients()
        norm = self._clip(options["optimizer"]["clip"] or math.inf)
        if math.isfinite(loss) and math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.tokens += batch.tokens
        progress.loss = loss
        elapsed = time.perf_counter() - begin
        progress.seconds += elapsed
        return {
            "step": progress.step,
            "loss": loss if math.isfinite(loss) else None,
            "lr": rate,
            "grad_norm": norm if math.isfinite(norm) else None,
            "tokens": batch.tokens,
            "seconds": round(elapsed, 4),
        }

    def _batch(self, indices: list[int]) -> Batch:
        examples = [self.examples[i] for i in indices]
        if self.options["packing"]:
            return pack(examples, self.pad_id, PACK_LENGTH)
        return collate(examples, self.pad_id)

    def _reduce_gradients(self) -> None:
        """Sum over data-parallel ranks, and over sequence shards for halves that saw only one."""
        group = parallel_state.get_data_parallel_group(with_context_parallel=True)
        tensor = parallel_state.get_tensor_model_parallel_group()
        for item in self.adapted:
            for half, parameter in item.halves():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                if group.size() > 1:
                    dist.all_reduce(parameter.grad, group=group)
                if item.layer.sequence and half != item.layer.sharded:
                    dist.all_reduce(parameter.grad, group=tensor)

    def _clip(self, limit: float) -> float:
        """Scale gradients so that their norm over the whole model is at most `limit`; returns it
        as it was."""
        lowest = parallel_state.get_tensor_model_parallel_rank() == 0
        squares = torch.zeros((), device=self.device)
        for item in self.adapted:
            for half, parameter in item.halves():
                if parameter.grad is not None and (half == item.layer.sharded or lowest):
                    squares = squares + parameter.grad.float().pow(2).sum()
        dist.all_reduce(squares, group=parallel_state.get_model_parallel_group())
        norm = math.sqrt(squares.item()) if squares.item() >= 0 else math.nan
        scale = min(1.0, limit / (norm + 1e-6)) if math.isfinite(norm) else 1.0
        if scale < 1.0:
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(scale)
        return norm

    def _export(self, step: int) -> None:
        tensors = export.gather(self.adapted, self.config)
        if self.first:
            config = peft_config(self.options["lora"], tensors)
            checkpoint.write_adapter(tensors, config, checkpoint_folder(self.run.out, step))

    def _resume(self) -> None:
        folder = self.run.out / "state"
        found = state.latest(folder)
        if found is None:
            if self.first:
                (self.run.out / "metrics.jsonl").unlink(missing_ok=True)
            return
        checkpoint.same_run(folder, found["identity"], self.identity)
        self.progress = Progress(**found["progress"])
        self.resumed_from = [*found["resumed_from"], self.progress.step]
        state.load(folder / found["folder"], self.adapted, self.optimizer, self.progress.step)
        if self.first:
            checkpoint.trim_metrics(self.run.out / "metrics.jsonl", self.progress.step)
            # Now: a kill before the next state must not lose this resumption.
            checkpoint.write_json(folder / state.LATEST,
                                  found | {"resumed_from": self.resumed_from})
            print(f"resumed after step {self.progress.step}", flush=True)
        dist.barrier()

    def _save_state(self) -> None:
        state.save(self.run.out / "state", self.progress.step, self.adapted, self.optimizer, {
            "identity": self.identity,
            "progress": vars(self.progress).copy(),
            "resumed_from": self.resumed_from,
        })

    def _result(self, status: str) -> dict[str, Any]:
        return result_record(
            self.run, status, self.progress, self.resumed_from, self._size(),
            {"trainer": "megatron",
             "layout": vars(self.layout) | {"processes": dist.get_world_size()}} | self.identity,
        )

    def _size(self) -> int:
        """Trained parameters of the whole model."""
        ranks = parallel_state.get_tensor_model_parallel_world_size()
        own = sum(
            parameter.numel() * (ranks if half == item.layer.sharded else 1)
            for item in self.adapted for half, parameter in item.halves()
        )
        count = torch.tensor([own], device=self.device)
        dist.all_reduce(count, group=parallel_state.get_pipeline_model_parallel_group())
        return int(count.item())

    def _print(self, record: dict[str, Any]) -> None:
        print(
            f"step {record['step']}/{self.steps} loss {record['loss']:.4f} lr {record['lr']:.2e} "
            f"{time.perf_counter() - self.started:.0f} s",
            flush=True,
        )
