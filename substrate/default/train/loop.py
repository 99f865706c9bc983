"""The training loop: steps, metrics, checkpoints, and a state to go on from after a kill."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from eval.adapter import base_digest, file_sha256
from eval.chat import load_chat
from peft import PeftModel

from train import checkpoint, model, schedule
from train.batching import Batch, Example, collate, pack, plan, read_rows, tokenize

STATE_STEPS = 25  # the state is written at least this often ...
STATE_SECONDS = 20.0  # ... and on slow models at least this often
PROGRESS_SECONDS = 5.0
PACK_LENGTH = 256  # tokens a row holds when packing


@dataclass(frozen=True)
class Run:
    """Arguments of one training run."""

    recipe: dict[str, Any]  # the checked recipe.yaml
    data: Path
    base: Path
    out: Path
    seed: int
    threads: int


@dataclass
class Progress:
    """What changes as the run goes; all of it is in the state."""

    step: int = 0
    tokens: int = 0
    loss: float = math.nan
    seconds: float = 0.0


def execute(run: Run) -> dict[str, Any]:
    """Train, or go on, or find it done; returns the content of result.json.

    Raises:
        StateError, DataError, ModelError, ChatError: one line each.
    """
    data_sha, base_sha = file_sha256(run.data), base_digest(run.base)
    identity = {
        "seed": run.seed,
        "base_sha256": base_sha,
        "data_sha256": data_sha,
        "recipe": run.recipe["train"] | {"order": run.recipe["data"]["order"]},
    }
    run.out.mkdir(parents=True, exist_ok=True)
    done = checkpoint.load_result(run.out / "result.json", identity)
    if done is not None:
        return done
    checkpoint.remove_temporaries(run.out)
    prepare_torch(run.threads)
    result = _Trainer(run, identity).train()
    checkpoint.write_json(run.out / "result.json", result)
    return result


def checkpoint_steps(steps: int, count: int) -> list[int]:
    """Steps after which a checkpoint is written: evenly spaced, the last at the end."""
    return sorted({max(1, round(steps * (i + 1) / count)) for i in range(count)})


def prepare_torch(threads: int) -> None:
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Only matters for code that reads uninitialised memory, and costs time at every allocation.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def checkpoint_folder(out: Path, step: int) -> Path:
    """Where the adapter after `step` lies."""
    return out / "checkpoints" / f"step-{step:06d}"


def result_record(run: Run, status: str, progress: Progress, resumed_from: list[int], size: int,
                  identity: dict[str, Any]) -> dict[str, Any]:
    """The content of result.json.

    Args:
        status: `ok` or `diverged`.
        resumed_from: steps after which the run went on after a kill.
        size: trained parameters.
        identity: seed and digests of what went into the run.
    """
    options = run.recipe["train"]
    steps = [
        step for step in checkpoint_steps(options["steps"], options["checkpoints"])
        if step <= progress.step and checkpoint_folder(run.out, step).is_dir()
    ]
    return {
        "schema_version": checkpoint.SCHEMA,
        "status": status,
        "steps": progress.step,
        "checkpoints": [{"step": s, "path": f"checkpoints/step-{s:06d}"} for s in steps],
        "final_loss": progress.loss if status == "ok" else None,
        "trainable_parameters": size,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 2),
        "resumed_from": resumed_from,
    } | identity


class _Trainer:
    """One run: data and model in memory, and the loop over them."""

    def __init__(self, run: Run, identity: dict[str, Any]) -> None:
        self.run, self.identity = run, identity
        self.options: dict[str, Any] = run.recipe["train"]
        self.state_path = run.out / "state" / "state.pt"
        self.started = time.perf_counter()
        chat = load_chat(run.base)
        self.pad_id = chat.pad_id
        rows = read_rows(run.data)
        self.examples: list[Example] = tokenize(rows, chat, self.options["loss"]["mask"])
        self.steps: int = self.options["steps"]
        shuffle = run.recipe["data"]["order"] == "shuffled"
        self.plan = plan(len(rows), self.options["batch_size"], self.steps, run.seed, shuffle)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model.check_packing(run.base, self.options["packing"])
        self.model: PeftModel = model.load(run.base, self.options["lora"], run.seed, device)
        self.parameters = model.trainable(self.model)
        optimizer = self.options["optimizer"]
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()),
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
        with (self.run.out / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
            while self.progress.step < self.steps:
                record = self._step()
                metrics.write(json.dumps(record) + "\n")
                metrics.flush()
                step = self.progress.step
                if record["loss"] is None or record["grad_norm"] is None:
                    status = "diverged"
                    break
                if step in marks:
                    checkpoint.save_adapter(self.model, checkpoint_folder(self.run.out, step))
                now = time.perf_counter()
                if step in marks or step % STATE_STEPS == 0 or now - last_state > STATE_SECONDS:
                    os.fsync(metrics.fileno())  # the metrics reach at least as far as the state
                    self._save_state()
                    last_state = now
                if now - last_line > PROGRESS_SECONDS or step == self.steps:
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
        value = model.loss(self.model, batch)
        value.backward()
        clip = options["optimizer"]["clip"]
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), clip or math.inf)
        loss, grad_norm = value.item(), norm.item()
        if math.isfinite(loss) and math.isfinite(grad_norm):
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
            "grad_norm": grad_norm if math.isfinite(grad_norm) else None,
            "tokens": batch.tokens,
            "seconds": round(elapsed, 4),
        }

    def _batch(self, indices: list[int]) -> Batch:
        examples = [self.examples[i] for i in indices]
        if self.options["packing"]:
            return pack(examples, self.pad_id, PACK_LENGTH)
        return collate(examples, self.pad_id)

    def _resume(self) -> None:
        state = checkpoint.load_state(self.state_path, self.identity)
        if state is None:
            (self.run.out / "metrics.jsonl").unlink(missing_ok=True)
            return
        self.progress = Progress(**state["progress"])
        self.resumed_from = [*state["resumed_from"], self.progress.step]
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state["adapter"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if torch.cuda.is_available() and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"])
        checkpoint.trim_metrics(self.run.out / "metrics.jsonl", self.progress.step)
        self._save_state()  # now: a kill before the next state must not lose this resumption
        print(f"resumed after step {self.progress.step}", flush=True)

    def _save_state(self) -> None:
        checkpoint.save_state(
            self.state_path,
            {
                "identity": self.identity,
                "progress": vars(self.progress).copy(),
                "resumed_from": self.resumed_from,
                "adapter": {name: p.detach() for name, p in self.parameters.items()},
                "optimizer": self.optimizer.state_dict(),
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            },
        )

    def _result(self, status: str) -> dict[str, Any]:
        size = sum(p.numel() for p in self.parameters.values())
        return result_record(self.run, status, self.progress, self.resumed_from, size,
                             self.identity)

    def _print(self, record: dict[str, Any]) -> None:
        print(
            f"step {record['step']}/{self.steps} loss {record['loss']:.4f} lr {record['lr']:.2e} "
            f"{time.perf_counter() - self.started:.0f} s",
            flush=True,
        )
