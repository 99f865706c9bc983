"""What a run writes beside Megatron-Bridge's own state: metrics, result, and from where it went on.

The step to go on from is Megatron-Bridge's: its newest whole checkpoint. All else is derived from
it: tokens from the plan, seconds and the last loss from metrics.jsonl.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from train import checkpoint
from train.run import Progress, Run, Ticker, result_record

TRACKER = "latest_train_state.pt"  # Megatron-Bridge's, as are the names of its folders
TEXT_TRACKER = "latest_checkpointed_iteration.txt"
OWN_STATE = "train_state.pt"  # in a checkpoint's folder, written last
RUN = "run.json"


def whole(state: Path) -> dict[int, Path]:
    """Megatron-Bridge's checkpoints that are whole, by step: each writes its own train state after
    all tensors."""
    found = {}
    for folder in state.glob("iter_*"):
        step = _step(folder / OWN_STATE)
        if step is not None:
            found[step] = folder
    return found


def repair(state: Path) -> int | None:
    """Make the newest whole checkpoint the one that will be loaded; its step, None without one.

    A run may be killed while it saves: then a folder is incomplete, or the tracker, which
    Megatron-Bridge does not replace atomically, is cut off and would end every later start.
    """
    found = whole(state)
    for folder in state.glob("iter_*"):
        if folder not in found.values():
            shutil.rmtree(folder)
    if not found:
        for name in (TRACKER, TEXT_TRACKER):
            (state / name).unlink(missing_ok=True)
        return None
    step = max(found)
    if _step(state / TRACKER) != step:
        temporary = state / f".{TRACKER}.{os.getpid()}"
        shutil.copyfile(found[step] / OWN_STATE, temporary)
        temporary.replace(state / TRACKER)
        (state / TEXT_TRACKER).write_text(f"{step}\n", encoding="utf-8")
    return step


class Log:
    """metrics.jsonl and result.json of a run; rank 0 has one."""

    def __init__(self, run: Run, identity: dict[str, Any], tokens: Sequence[int]) -> None:
        """`tokens`: of every step of the plan, without padding."""
        self.run, self.identity, self.tokens = run, identity, tokens
        self.state = run.out / "state"
        self.metrics = run.out / "metrics.jsonl"
        self.progress = Progress()
        self.resumed_from: list[int] = []
        self.ticker = Ticker(run.recipe["train"]["steps"])

    def open(self) -> None:
        """Before Megatron-Bridge starts: refuse another run's state, put what is there in order.

        Raises:
            StateError: the folder holds another run.
        """
        self.state.mkdir(parents=True, exist_ok=True)
        checkpoint.remove_temporaries(self.run.out)
        record = self._record()
        if record is not None:
            checkpoint.same_run(self.state / RUN, record["identity"], self.identity)
        step = repair(self.state)
        if step is None:
            self.metrics.unlink(missing_ok=True)
        else:
            if record is None:
                raise checkpoint.StateError(f"{self.state}: no {RUN} beside a checkpoint; use a "
                                            "new --out")
            self.resumed_from = [*record["resumed_from"], step]
            checkpoint.trim_metrics(self.metrics, step)
            print(f"resumed after step {step}", flush=True)
        checkpoint.write_json(self.state / RUN, {"identity": self.identity,
                                                 "resumed_from": self.resumed_from})

    def begin(self, step: int) -> None:
        """Megatron-Bridge is about to train and has done `step` steps.

        Raises:
            StateError: it did not take up the state that was found.
        """
        expected = self.resumed_from[-1] if self.resumed_from else 0
        if step != expected:
            raise checkpoint.StateError(f"{self.state}: Megatron-Bridge starts after step {step}, "
                                        f"its newest checkpoint is of step {expected}")
        lines = self.metrics.read_text(encoding="utf-8").splitlines() if step else []
        records = [json.loads(line) for line in lines]
        if [record["step"] for record in records] != list(range(1, step + 1)):
            raise checkpoint.StateError(f"{self.metrics}: lacks steps before {step}; use a new "
                                        "--out")
        self.progress = Progress(
            step=step, tokens=sum(self.tokens[:step]),
            loss=records[-1]["loss"] if records else math.nan,
            seconds=sum(record["seconds"] for record in records),
        )

    def add(self, loss: float, rate: float, norm: float, seconds: float) -> bool:
        """The line of the step that was just done, on disk when this returns; whether all of it
        is finite."""
        tokens = self.tokens[self.progress.step]
        record = self.progress.advance(loss, rate, norm, tokens, seconds)
        with self.metrics.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(record) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        self.ticker.tell(record)
        return record["loss"] is not None and record["grad_norm"] is not None

    def finish(self, status: str, size: int, more: dict[str, Any]) -> dict[str, Any]:
        """Write result.json; returns its content.

        Args:
            size: trained parameters; more: further fields.
        """
        result = result_record(self.run, status, self.progress, self.resumed_from, size,
                               more | self.identity)
        checkpoint.write_json(self.run.out / "result.json", result)
        return result

    def _record(self) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads((self.state / RUN).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return record


def _step(path: Path) -> int | None:
    """The step in a train state of Megatron-Bridge's; None where it is not whole."""
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True)["step"])
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError):
        return None
