"""One training run: its arguments, how far it is, and what it writes; the same for all trainers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.adapter import file_sha256
from eval.chat import Chat

from train.batching import Course, Row
from train.checkpoint import SCHEMA

PROGRESS_SECONDS = 5.0


@dataclass(frozen=True)
class Run:
    """Arguments of one training run."""

    recipe: dict[str, Any]  # the checked recipe.yaml
    data: Path
    base: Path
    out: Path
    seed: int
    threads: int

    def identity(self, base_sha256: str) -> dict[str, Any]:
        """Seed and digests of what goes into the run: what makes it the same run when it goes on.

        Raises:
            OSError: there is no data.
        """
        return {
            "seed": self.seed,
            "base_sha256": base_sha256,
            "data_sha256": file_sha256(self.data),
            "recipe": self.recipe["train"] | {"order": self.recipe["data"]["order"]},
        }

    def course(self, rows: Sequence[Row], chat: Chat) -> Course:
        """What the run learns from, step by step."""
        data, options = self.recipe["data"], self.recipe["train"]
        return Course.of(rows, chat, options, self.seed, data["order"] == "shuffled")


@dataclass
class Progress:
    """What changes as the run goes; all of it is in the state."""

    step: int = 0
    tokens: int = 0
    loss: float = math.nan
    seconds: float = 0.0

    def advance(self, loss: float, rate: float, norm: float, tokens: int,
                seconds: float) -> dict[str, Any]:
        """Count one more step; its line of metrics.jsonl (None for a value not finite)."""
        self.step += 1
        self.tokens += tokens
        self.loss, self.seconds = loss, self.seconds + seconds
        return {
            "step": self.step,
            "loss": loss if math.isfinite(loss) else None,
            "lr": rate,
            "grad_norm": norm if math.isfinite(norm) else None,
            "tokens": tokens,
            "seconds": round(seconds, 4),
        }


class Ticker:
    """Says how far a run is: seldom, and at its last step."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.started = self.said = time.perf_counter()

    def tell(self, record: dict[str, Any]) -> None:
        """Print a line of metrics.jsonl, if it is time to."""
        now = time.perf_counter()
        if now - self.said > PROGRESS_SECONDS or record["step"] == self.steps:
            self.said = now
            loss = "not finite" if record["loss"] is None else f"{record['loss']:.4f}"
            print(f"step {record['step']}/{self.steps} loss {loss} lr {record['lr']:.2e} "
                  f"{now - self.started:.0f} s", flush=True)


def checkpoint_steps(steps: int, count: int) -> list[int]:
    """Steps after which a checkpoint is written: evenly spaced, the last at the end."""
    return sorted({max(1, round(steps * (i + 1) / count)) for i in range(count)})


def checkpoint_folder(out: Path, step: int) -> Path:
    """Where the adapter after `step` lies."""
    return out / "checkpoints" / f"step-{step:06d}"


def result_record(run: Run, status: str, progress: Progress, resumed_from: list[int], size: int,
                  identity: dict[str, Any], marks: Iterable[int] | None = None) -> dict[str, Any]:
    """The content of result.json.

    Args:
        status: `ok` or `diverged`.
        resumed_from: steps after which the run went on after a kill.
        size: trained parameters.
        identity: seed and digests of what went into the run.
        marks: steps after which an adapter was to be written; None: evenly spaced ones.
    """
    options = run.recipe["train"]
    if marks is None:
        marks = checkpoint_steps(options["steps"], options["checkpoints"])
    steps = [
        step for step in sorted(marks)
        if step <= progress.step and checkpoint_folder(run.out, step).is_dir()
    ]
    return {
        "schema_version": SCHEMA,
        "status": status,
        "steps": progress.step,
        "checkpoints": [{"step": s, "path": f"checkpoints/step-{s:06d}"} for s in steps],
        "final_loss": progress.loss if status == "ok" else None,
        "trainable_parameters": size,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 2),
        "resumed_from": resumed_from,
    } | identity
