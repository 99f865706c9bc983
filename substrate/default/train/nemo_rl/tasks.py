"""Which of NeMo-RL's scripts a run starts, and for how many steps: a pure function of the recipe.

The stages of `train.stages` and their budget are those of train/rl/plan.py. NeMo-RL learns SFT, DPO
and GRPO; what RFT and DPO learn from is sampled by its GRPO script with a learning rate of 0, whose
environment keeps the answers. Steps are counted beforehand, with answers as long as the data's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from train.rl import plan

ANSWERS = "answers"
SAMPLED = ("grpo", ANSWERS)  # tasks that generate
SCRIPTS = {"sft": "sft", "rft": "sft", "dpo": "dpo", "grpo": "grpo", ANSWERS: "grpo"}


class NemoRlError(ValueError):
    """The run cannot be given to NeMo-RL as it stands, or NeMo-RL failed; one line."""


@dataclass(frozen=True)
class Task:
    """One start of a script.

    Attributes:
        number: its place; method: the stage it belongs to; kind: sft, rft, dpo, grpo or answers;
        rows: rows (sft, rft), pairs (dpo) or prompts (grpo, answers) a step;
        round: of rft and dpo; start, total: of the stage's learning steps, the first here and all.
    """

    number: int
    method: str
    kind: str
    steps: int
    rows: int
    round: int = 0
    start: int = 0
    total: int = 0

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.number:02d}-{self.method}" + (f"-{ANSWERS}" if self.kind == ANSWERS else "")

    @property
    def learns(self) -> bool:
        """Whether its steps are steps of the run."""
        return self.kind != ANSWERS


def tasks(train: dict[str, Any], budget: int, mean: float) -> list[Task]:
    """All tasks of a run in order.

    Args:
        train: the `train` section of recipe.yaml.
        budget: tokens of SFT alone; mean: tokens of a row of the data.
    """
    rl, batch = plan.settings(train), int(train["batch_size"])
    prompts, samples = max(1, batch // rl["samples"]), int(rl["samples"])
    found: list[Task] = []
    for stage in plan.stages(train, budget):
        if stage.method == "sft":
            steps = max(1, round(stage.size / budget * train["steps"]))
            found.append(Task(len(found), "sft", "sft", steps, batch, 0, 0, steps))
        elif stage.method == "grpo":  # every answer is written, then learned
            steps = max(1, round(stage.size / (2 * prompts * samples * mean)))
            found.append(Task(len(found), "grpo", "grpo", steps, prompts, 0, 0, steps))
        else:
            rounds = int(rl["rounds"])
            asked = max(1, round(rl["sampled"] * stage.size / rounds / mean / samples))
            # A step of DPO is batch_size pairs, as NeMo-RL divides pairs over GPUs; its reference
            # reads them once more.
            each = batch * mean * (1 if stage.method == "rft" else 4)
            steps = max(1, round((1 - rl["sampled"]) * stage.size / rounds / each))
            for number in range(rounds):
                found.append(Task(len(found), stage.method, ANSWERS, math.ceil(asked / prompts),
                                  prompts, number))
                found.append(Task(len(found), stage.method, stage.method, steps, batch, number,
                                  number * steps, rounds * steps))
    return found


def check(train: dict[str, Any], data: int, micro_batch: int, found: Sequence[Task]) -> None:
    """What of the recipe cannot be had on so many groups of GPUs that divide a batch's rows.

    Raises:
        NemoRlError: the first such thing.
    """
    if train["packing"]:
        raise NemoRlError("train.packing: a step of trainer=nemo_rl is batch_size padded rows; set "
                          "it to false, or use trainer=megatron")
    rl, batch = plan.settings(train), int(train["batch_size"])
    if rl["updates"] > 1:
        raise NemoRlError("train.rl.updates: trainer=nemo_rl takes one step a sampling; set it to "
                          "1, or use trainer=peft")
    if any(task.kind in SAMPLED for task in found) and batch % rl["samples"]:
        raise NemoRlError(f"train.batch_size = {batch} is not a multiple of train.rl.samples = "
                          f"{rl['samples']}, the answers to a prompt that a step learns together")
    for task in found:
        rows = task.rows * (rl["samples"] if task.kind in SAMPLED else 1)
        if rows % (data * micro_batch):
            raise NemoRlError(f"{task.kind}: {rows} rows a step are not a multiple of GPUs x "
                              f"micro_batch = {data} x {micro_batch}; change train.batch_size")


def offsets(found: Sequence[Task]) -> list[int]:
    """Steps of the run that are done before each task."""
    done, before = 0, []
    for task in found:
        before.append(done)
        done += task.steps if task.learns else 0
    return before


def save_period(task: Task, checkpoints: int, most: int) -> int:
    """Steps of a task between two states of NeMo-RL's: an adapter is taken from one of them, and a
    kill costs what came after the last."""
    return max(1, min(most, task.steps // max(1, checkpoints)))


def due(marks: Sequence[int], offset: int, steps: int, period: int) -> set[int]:
    """Steps of a task after which an adapter is taken: of each mark within it the first state."""
    found = set()
    for mark in marks:
        if offset < mark <= offset + steps:
            found.add(min(steps, math.ceil((mark - offset) / period) * period))
    return found
