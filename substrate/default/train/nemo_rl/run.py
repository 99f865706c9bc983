"""One run: its tasks one after the other, going on after a kill, and what it leaves.

OUT/state/NN-NAME holds a task: configuration, rows, NeMo-RL's states, and last done.json. A task
that is done is not started again; one that was killed goes on from NeMo-RL's newest state. Where a
task follows another, NeMo-RL finds that one's adapter as a state of step 0, without optimiser.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from eval import files
from eval.adapter import AdapterError, base_digest, base_shapes, load_adapter
from eval.chat import Chat, load_chat

from train import checkpoint
from train.batching import Course, Row, read_rows
from train.nemo_bridge import adapter, family
from train.nemo_bridge.rows import row_length
from train.nemo_rl import book, cluster, export, rows, settings
from train.nemo_rl import tasks as planned
from train.nemo_rl.tasks import NemoRlError, Task
from train.rl import plan
from train.run import Progress, Run, checkpoint_folder, checkpoint_steps, result_record

SLACK = 4  # tokens that an answer may be longer than the data's longest, as for trainer=peft
DONE, IDENTITY = "done.json", "run.json"
ELSEWHERE = "the rows of another task"  # NeMo-RL: not this dataset's position


@dataclass(frozen=True)
class Prepared:
    """What a run derives from its files before anything starts."""

    chat: Chat
    given: list[Row]
    course: Course
    tasks: list[Task]
    budget: int
    family: str
    shapes: dict[str, tuple[int, ...]]  # tensors of the base
    expected: dict[str, tuple[int, ...]]  # tensors of the adapter
    targets: list[str]

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Ids of each row's prompt."""
        texts = [self.chat.prompt(row["prompt"]) for row in self.given]
        return [one.ids for one in self.chat.encode(texts)]

    def max_new(self, asked: int | None) -> int:
        """Most tokens of an answer."""
        longest = max(len(one.ids) - len(prompt)
                      for one, prompt in zip(self.course.examples, self.prompts, strict=True))
        return asked or longest + SLACK


def prepare(run: Run, layout: settings.Layout, wanted: str) -> Prepared:
    """Check and read all that can be before Ray starts.

    Raises:
        NemoRlError, BridgeError, ChatError, DataError, TargetError: one line each.
    """
    train = run.recipe["train"]
    config = family.read_config(run.base)
    known = family.recognise(config, wanted).name
    shapes = base_shapes(run.base)
    modules = export.modules(config, train["lora"])
    chat, given = load_chat(run.base), read_rows(run.data)
    course = run.course(given, chat)
    row_length(course.examples, layout.sequence)
    budget = sum(course.tokens(step) for step in range(len(course.plan)))
    mean = sum(len(one.ids) for one in course.examples) / len(given)
    found = planned.tasks(train, budget, mean)
    checked = all(isinstance(row.get("answer"), str) for row in given)
    if not checked and any(task.kind in planned.SAMPLED for task in found):
        raise NemoRlError(f"{run.data}: stages beyond sft need rows with an answer")
    planned.check(train, layout.data, layout.micro_batch, found)
    for task in found:
        settings.recipe(known, task)
    return Prepared(chat, given, course, found, budget, known, shapes,
                    adapter.shapes(modules, shapes, train["lora"]["rank"]),
                    settings.patterns(modules))


def execute(run: Run, layout: settings.Layout, wanted: str, home: Path) -> dict[str, Any]:
    """Train, or go on, or find it done; returns the content of result.json.

    Raises:
        NemoRlError, StateError and what `prepare` raises: one line each.
    """
    prepared = prepare(run, layout, wanted)
    identity = run.identity(base_digest(run.base))
    done = checkpoint.load_result(run.out / "result.json", identity)
    if done is not None:
        return done
    with cluster.head(layout.gpus):
        return Tasks(run, layout, prepared, home, identity).all()


class Tasks:
    """The tasks of a run, on the node of the Ray head."""

    def __init__(self, run: Run, layout: settings.Layout, prepared: Prepared, home: Path,
                 identity: dict[str, Any]) -> None:
        self.run, self.layout, self.prepared, self.home = run, layout, prepared, home
        self.identity, self.train = identity, run.recipe["train"]
        self.rl = plan.settings(self.train)
        self.state, self.metrics = run.out / "state", run.out / "metrics.jsonl"
        self.offsets = planned.offsets(prepared.tasks)
        total = self.offsets[-1] + prepared.tasks[-1].steps
        ends = [before + task.steps for before, task in
                zip(self.offsets, prepared.tasks, strict=True) if task.learns]
        self.marks = sorted({*checkpoint_steps(total, self.train["checkpoints"]), *ends})
        self.resumed_from: list[int] = []

    def all(self) -> dict[str, Any]:
        """Run what is left; writes result.json and returns its content."""
        self._open()
        status = "ok"
        for task in self.prepared.tasks:
            if not self._folder(task).joinpath(DONE).is_file():
                status = self._one(task)
            if status != "ok":
                break
        lines = self._lines()
        progress = Progress(len(lines), sum(line["tokens"] for line in lines),
                            float("nan") if not lines or lines[-1]["loss"] is None
                            else lines[-1]["loss"], sum(line["seconds"] for line in lines))
        size = sum(rows_ * columns for rows_, columns in self.prepared.expected.values())
        taken = [int(path.name.split("-")[1]) for path in (self.run.out / "checkpoints").glob("*")]
        result = result_record(self.run, status, progress, self.resumed_from, size, {
            "trainer": "nemo_rl", "layout": vars(self.layout), "budget": self.prepared.budget,
            "read": sum(line.get("read", 0) for line in lines),
        } | self.identity, taken)
        checkpoint.write_json(self.run.out / "result.json", result)
        return result

    def _open(self) -> None:
        """Refuse another run's state; put what is there in order.

        Raises:
            StateError: the folder holds another run.
        """
        self.state.mkdir(parents=True, exist_ok=True)
        (self.run.out / "checkpoints").mkdir(exist_ok=True)
        checkpoint.remove_temporaries(self.run.out)
        path = self.state / IDENTITY
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            checkpoint.same_run(path, record["identity"], self.identity)
            self.resumed_from = record["resumed_from"]
            self._go_on()
        else:
            self.metrics.unlink(missing_ok=True)
        checkpoint.write_json(path, {"identity": self.identity, "resumed_from": self.resumed_from})

    def _go_on(self) -> None:
        """Drop what the task that was killed did after its last state."""
        left = [task for task in self.prepared.tasks if not (self._folder(task) / DONE).is_file()]
        if not left or not (self._folder(left[0]).is_dir() or self.metrics.is_file()):
            return
        folder = self._places(left[0]).checkpoints
        book.tidy(folder)
        step = self.offsets[left[0].number] + max(book.states(folder), default=0)
        checkpoint.trim_metrics(self.metrics, step)
        self.resumed_from = [*self.resumed_from, step]
        print(f"resumed after step {step} ({left[0].name})", flush=True)

    def _one(self, task: Task) -> str:
        """One task from where it is to its end; its status.

        Raises:
            NemoRlError: the script failed, or left no adapter where one is due.
        """
        places, offset = self._places(task), self.offsets[task.number]
        kind = task.kind
        if not places.rows.is_file():
            kind, lines = self._material(task)
            self._begin(task, places)
            files.write(places.task / "kind", kind)
            rows.write(places.rows, lines)
        kind = (places.task / "kind").read_text(encoding="utf-8")
        places.answers.write_text("", encoding="utf-8")  # of a start that was killed
        learned = task if kind == task.kind else planned.Task(**vars(task) | {
            "kind": kind, "rows": int(self.train["batch_size"])})
        period = planned.save_period(task, self.train["checkpoints"], settings.STATE_STEPS)
        due = planned.due(self.marks, offset, task.steps, period) if task.learns else set()
        status = self._script(learned, places, offset, period, sorted(due))
        if status == "ok" and task.learns:
            for step in sorted(due):
                self._export(places.checkpoints, step, offset)
        if status == "ok":
            checkpoint.write_json(places.task / DONE, {"steps": task.steps, "kind": kind})
        return status

    def _material(self, task: Task) -> tuple[str, list[rows.Line]]:
        """What a task turns out to be, and its lines: DPO without a pair, and RFT without a right
        answer, learn rows of the SFT data, as in trainer=peft."""
        given, rng = self.prepared.course, self._random(task)
        if task.kind == "sft":
            return task.kind, rows.course(given, task.steps)
        count = task.steps * task.rows
        if task.kind in planned.SAMPLED:
            return task.kind, rows.asked(self.prepared.given, self.prepared.prompts, count, rng)
        groups = self._groups(self.prepared.tasks[task.number - 1])
        batch = int(self.train["batch_size"])
        if task.kind == "dpo":
            pairs = rows.preferred(groups, count, rng)
            if pairs:
                return task.kind, pairs
            groups = []
        return "rft", rows.right(groups, given, task.steps, batch, self.rl, rng)

    def _groups(self, task: Task) -> list[Any]:
        places = self._places(task)
        asked = [json.loads(line) for line in places.rows.read_text("utf-8").splitlines()]
        return rows.sampled(places.answers, asked, self.prepared.chat,
                            self.prepared.max_new(self.rl["max_new"]))

    def _begin(self, task: Task, places: settings.Places) -> None:
        """A task's folder, empty but for the adapter of the task before as the state of step 0."""
        shutil.rmtree(places.task, ignore_errors=True)
        places.checkpoints.mkdir(parents=True)
        before = [one for one in self.prepared.tasks[: task.number] if one.learns]
        if not before:
            return
        found = book.states(self._places(before[-1]).checkpoints)
        start = places.checkpoints / "step_0"
        shutil.copytree(found[max(found)] / "policy" / "weights", start / "policy" / "weights")
        torch.save({}, start / "train_dataloader.pt")
        files.write(start / "config.yaml", yaml.safe_dump(
            {"data": {"train": {"dataset_name": ELSEWHERE}}}))
        counted = ("epoch", "step", "current_epoch", "current_step", "total_steps",
                   "consumed_samples", "total_valid_tokens")
        files.write(start / "training_info.json", json.dumps(dict.fromkeys(counted, 0)))

    def _script(self, task: Task, places: settings.Places, offset: int, period: int,
                due: list[int]) -> str:
        """Run NVIDIA's script for the task; `ok` or `diverged`.

        Raises:
            NemoRlError: it failed.
        """
        eos, max_new = list(self.prepared.chat.eos_ids), self.prepared.max_new(self.rl["max_new"])
        config = settings.configuration(
            task, self.train, self.layout, places, family=self.prepared.family,
            seed=self.run.seed, targets=self.prepared.targets, stop=eos, max_new=max_new,
            period=period)
        files.write(places.task / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        lines = [json.loads(line) for line in places.rows.read_text("utf-8").splitlines()]
        tokens = [] if task.kind in planned.SAMPLED else rows.lengths(lines)
        per = [sum(tokens[start : start + task.rows]) for start in range(0, len(tokens), task.rows)]
        spec = {
            "script": str(places.script(task)), "config": str(places.task / "config.yaml"),
            "units": self.layout.nodes * self.layout.gpus,
            "book": {"metrics": str(self.metrics), "checkpoints": str(places.checkpoints),
                     "offset": offset, "stage": task.method, "learns": task.learns,
                     "tokens": per, "read": self._read(task, per), "due": due},
        }
        files.write(places.task / "spec.json", json.dumps(spec))
        way = [os.environ.get("PYTHONPATH", ""), str(Path.cwd()), str(self.home)]
        status = subprocess.run(
            [sys.executable, "-m", "train.nemo_rl.driver", str(places.task / "spec.json")],
            stdin=subprocess.DEVNULL, check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, way))},
        ).returncode
        if status == 3:
            return "diverged"
        if status:
            raise NemoRlError(f"{places.script(task).name} ended with exit status {status}; its "
                              "words are above")
        if task.learns and max(book.states(places.checkpoints), default=0) != task.steps:
            raise NemoRlError(f"{places.checkpoints}: NeMo-RL left no state of step {task.steps}")
        return "ok"

    def _read(self, task: Task, per: list[int]) -> int:
        """Tokens that a task's learning has cost besides: answers it learns from, and DPO's
        reference."""
        if task.method not in ("rft", "dpo") or not task.learns:
            return 0
        asked = self._groups(self.prepared.tasks[task.number - 1])
        found = sum(len(one.prompt) + len(one.ids) for group in asked for one in group)
        return found + (sum(per) if task.kind == "dpo" else 0)

    def _export(self, states: Path, step: int, offset: int) -> None:
        """The adapter after a task's step, in our format; then read as the evaluation will.

        Raises:
            NemoRlError: it is not the adapter that was trained, or would not be accepted.
        """
        tensors = export.tensors(book.states(states)[step], self.prepared.expected)
        folder = checkpoint_folder(self.run.out, offset + step)
        checkpoint.write_adapter(tensors, export.config(self.train["lora"], tensors), folder)
        try:
            load_adapter(folder, self.prepared.shapes)
        except AdapterError as error:
            raise NemoRlError(f"{folder}: {error}") from error

    def _places(self, task: Task) -> settings.Places:
        return settings.Places(self.home, self.run.base.resolve(), self._folder(task).resolve())

    def _folder(self, task: Task) -> Path:
        return self.state / task.name

    def _random(self, task: Task) -> random.Random:
        return random.Random(f"{task.name}-{self.run.seed}")

    def _lines(self) -> list[dict[str, Any]]:
        if not self.metrics.is_file():
            return []
        return [json.loads(line) for line in self.metrics.read_text("utf-8").splitlines()]
