"""What a run writes while NeMo-RL trains: a line a step, and the adapters that are due.

Lives in the driver, which NeMo-RL tells of a step after it has saved the step's state; the same is
done once more when the script has ended.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

STATES = 2  # of NeMo-RL's that are kept: the newest may be the one that a kill spoiled


class Diverged(Exception):
    """Loss or gradient is not finite."""


class Book:
    """The lines of one task."""

    def __init__(self, metrics: str, checkpoints: str, offset: int, stage: str, learns: bool,
                 tokens: list[int], read: int, due: list[int]) -> None:
        """
        Args:
            metrics: metrics.jsonl; checkpoints: NeMo-RL's folder of states.
            offset: steps of the run before the task.
            tokens: that each step trains; empty: NeMo-RL says. read: that the first step has
                read besides, and every step of a GRPO task as many as it trains.
            due: steps whose state is kept until an adapter was taken from it.
        """
        self.metrics, self.checkpoints = Path(metrics), Path(checkpoints)
        self.offset, self.stage, self.learns = offset, stage, learns
        self.tokens, self.read, self.due = tokens, read, set(due)
        self.since = time.perf_counter()

    def add(self, step: int, told: dict[str, Any]) -> None:
        """NeMo-RL did its 1-based `step`.

        Raises:
            Diverged: what it told is not finite.
        """
        now = time.perf_counter()
        seconds, self.since = now - self.since, now
        if not self.learns:
            return
        loss, norm = float(told["loss"]), float(told["grad_norm"])
        trained = self.tokens[step - 1] if self.tokens else int(told["total_num_tokens"])
        read = (self.read if step == 1 else 0) + (0 if self.tokens else trained)
        line: dict[str, Any] = {
            "step": self.offset + step, "loss": loss if math.isfinite(loss) else None,
            "lr": float(told.get("lr", 0.0)), "grad_norm": norm if math.isfinite(norm) else None,
            "tokens": trained, "seconds": round(seconds, 4), "stage": self.stage,
        }
        line |= {"read": read} if read else {}
        line |= {"reward": float(told["reward"])} if "reward" in told else {}
        with self.metrics.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        if line["loss"] is None or line["grad_norm"] is None:
            raise Diverged
        self.forget()

    def forget(self) -> None:
        """Remove states that nothing needs."""
        for step in sorted(found := states(self.checkpoints))[:-STATES]:
            if step not in self.due:
                shutil.rmtree(found[step])


def states(folder: Path) -> dict[int, Path]:
    """NeMo-RL's states by step; 0 is where a task began. A folder is named when it is whole."""
    found = {int(match[1]): path for path in folder.glob("step_*")
             if (match := re.fullmatch(r"step_(\d+)", path.name))}
    return dict(sorted(found.items()))


def tidy(folder: Path) -> None:
    """Remove what a kill left half written."""
    for pattern in ("tmp_step_*", "old_step_*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path)
