"""The training loop through stages: what is sampled when, and what a step learns of it.

A run ends when its budget (train/rl/plan.py) is spent, and so does a stage. What the next step
depends on is in the state: how much is spent, and the round of answers that is being learned. rft
and dpo write a state as soon as they have sampled, so a killed run does not sample twice; grpo
samples at nearly every step and repeats what any killed run repeats: the steps after its last
state. Sampling draws on the run's seed, the stage and the round's number, so a repeated one is the
same. What a step is, is decided by what was spent when the last one was done: sampling for it
must not move it into the next stage, or a run that goes on after it would be another.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from eval.chat import load_chat
from torch import Tensor

from train import loop, schedule
from train.batching import Batch, DataError, Row, collate, read_rows
from train.peft_backend import Precision
from train.rl import plan
from train.rl.losses import Judged
from train.rl.policy import PolicyBackend
from train.rl.reward import reward, right
from train.rl.rounds import Round, Sampled, choose
from train.run import PROGRESS_SECONDS, Progress, Run, Ticker

SLACK = 4  # tokens that an answer may be longer than the data's longest
T = TypeVar("T")
PARTS = 1000  # a schedule's steps, where the number of real ones is not known beforehand


@dataclass
class StagedProgress(Progress):
    """What changes as the run goes; `tokens` are those trained, `read` those read or written
    without learning, `before` what was spent when the last step was done; `learned` the steps of
    this stage, `marks` those of all with a checkpoint. A stage below 0 has not begun."""

    read: int = 0
    before: int = 0
    stage: int = -1
    round: int = -1
    learned: int = 0
    marks: list[int] = field(default_factory=list)

    @property
    def spent(self) -> int:
        """Of the budget."""
        return self.tokens + self.read


class Share(Ticker):
    """Says how much of the budget is spent."""

    def __init__(self) -> None:
        super().__init__(0)
        self.part = 0.0

    def tell(self, record: dict[str, Any]) -> None:
        """Print a line of metrics.jsonl, if it is time to."""
        now = time.perf_counter()
        if now - self.said > PROGRESS_SECONDS or self.part >= 1:
            self.said = now
            loss = "not finite" if record["loss"] is None else f"{record['loss']:.4f}"
            print(f"step {record['step']} ({record['stage']}), {self.part:.0%} of the budget, "
                  f"loss {loss}, {now - self.started:.0f} s", flush=True)


def execute(run: Run, precision: Precision | None = None) -> dict[str, Any]:
    """Train, or go on, or find it done; returns the content of result.json.

    Raises:
        StateError, DataError, ModelError, ChatError, OSError: one line each.
    """
    return loop.execute(
        run, loop.Alone(), lambda rows, chat: PolicyBackend(run, precision), StagedTrainer
    )


class StagedTrainer(loop.Trainer):
    """A Trainer whose steps are those of several stages."""

    backend: PolicyBackend
    progress: StagedProgress

    def __init__(self, run: Run, identity: dict[str, Any], ranks: loop.Ranks,
                 start: loop.Start) -> None:
        """As Trainer's.

        Raises:
            DataError: the rows have no answers to check samples against.
        """
        super().__init__(run, identity, ranks, start)
        self.rl = plan.settings(self.options)
        self.rows: list[Row] = read_rows(run.data)
        if not all(isinstance(row.get("answer"), str) for row in self.rows):
            raise DataError(f"{run.data}: stages beyond sft need rows with an answer")
        self.chat = load_chat(run.base)
        self.prompts = [one.ids for one in
                        self.chat.encode([self.chat.prompt(row["prompt"]) for row in self.rows])]
        end = self.chat.tokenizer.token_to_id(self.chat.names["eos_token"])
        self.end_id: int = self.chat.eos_ids[0] if end is None else end
        answers = [len(one.ids) - len(asked) for one, asked in
                   zip(self.course.examples, self.prompts, strict=True)]
        self.max_new: int = self.rl["max_new"] or max(answers) + SLACK
        self.mean = sum(len(one.ids) for one in self.course.examples) / len(self.rows)
        self.budget = sum(self.course.tokens(step) for step in range(self.steps))
        self.stages = plan.stages(self.options, self.budget)
        self.progress = StagedProgress()
        self.round = Round()
        self.ticker = self.share = Share()
        self.told: dict[str, Any] = {}
        self.marks = set()

    def train(self) -> dict[str, Any]:
        """Run what is left; returns the result record, with the budget and how it was spent."""
        result = super().train()
        return result | {"budget": self.budget, "read": self.progress.read}

    @property
    def stage(self) -> plan.Stage:
        """The stage that is being run."""
        return self.stages[max(0, self.progress.stage)]

    def _finished(self) -> bool:
        return self.progress.before >= self.budget

    def _step(self) -> dict[str, Any]:
        record, progress = super()._step(), self.progress
        self.share.part = progress.spent / self.budget
        if self._passed(progress.before, progress.spent):
            progress.marks.append(progress.step)
            self.marks.add(progress.step)
        progress.before, progress.learned = progress.spent, progress.learned + 1
        told, self.told = self.told, {}
        return record | {"stage": self.stage.method} | told

    def _passed(self, before: int, after: int) -> bool:
        """Whether a step from one to the other of the budget earns a checkpoint: an even share of
        it is spent, or its stage is over."""
        count = self.options["checkpoints"]
        places = {stage.end for stage in self.stages}
        places |= {self.budget * (part + 1) / count for part in range(count)}
        return any(before < place <= after for place in places)

    def _next(self) -> tuple[Batch, float]:
        self._enter()
        batch = self._batch()
        method, part = self.stage.method, self.stage.part(self.progress.before)
        peak = self.rl["learning_rate"] if method in ("dpo", "grpo") else None
        options = self.options | {"steps": PARTS}
        if peak is not None:
            options["learning_rate"] = peak
        return batch, schedule.rate(options, min(PARTS - 1, int(part * PARTS)))

    def _enter(self) -> None:
        """Begin the stage that is due, if it is another: the optimiser starts afresh."""
        due = plan.current(self.stages, self.progress.before)
        if due == self.progress.stage:
            return
        self.progress.stage, self.progress.round, self.progress.learned = due, -1, 0
        self.round = Round()
        self.backend.optimizer.state.clear()
        self.backend.reference = None
        if self.stage.method == "grpo" and self.rl["kl"]:
            self.backend.refer()

    def _batch(self) -> Batch:
        """What the step learns, sampled first where it is time to."""
        method = self.stage.method
        if method == "sft":
            return self.course.batch(self.progress.step % len(self.course.plan))
        if method == "grpo":
            return self._group_batch()
        due = int(self.stage.part(self.progress.before) * self.rl["rounds"])
        if due > self.progress.round:
            share = self.rl["sampled"] * self.stage.size / self.rl["rounds"]
            self._sample(max(1, round(share / self.mean / self.rl["samples"])), due)
            if method == "dpo":
                self._score()
            with self.metrics.open("a") as metrics:
                os.fsync(metrics.fileno())  # they reach at least as far as the state
            self.backend.save_state(self._record())
        return self._pairs_batch() if method == "dpo" else self._kept_batch()

    def _group_batch(self) -> Batch:
        """GRPO: all answers of the round, sampled anew until some group of them differs; rows of
        the SFT data where none does before the stage is over.

        Raises:
            DataError: so it was from the stage's beginning.
        """
        prompts = max(1, self.options["batch_size"] // self.rl["samples"])
        if self.round.updates >= self.rl["updates"] or not self.round.examples:
            self._sample(prompts, self.progress.round + 1)
            while not self.round.examples and self.progress.spent < self.stage.end:
                self._sample(prompts, self.progress.round + 1)
            if not self.round.examples:
                if self.progress.learned:
                    return self._kept_batch()
                raise DataError("train.stages: grpo: the answers to each prompt were all worth the "
                                "same, so there was nothing to learn; warm up with sft, or sample "
                                "more (train.rl.samples, temperature)")
            self._score()
        self.round.updates += 1
        return self._judged(range(len(self.round.examples)))

    def _kept_batch(self) -> Batch:
        """RFT: rows of what was kept, mixed with rows of the SFT data, of which all are where
        nothing was kept."""
        size, rng = self.options["batch_size"], self._random("batch", self.progress.step)
        own = min(size, round(size * (1 - self.rl["mix"]))) if self.round.examples else 0
        chosen = draw(self.round.examples, own, rng) + draw(self.course.examples, size - own, rng)
        return collate(chosen, self.course.pad_id)

    def _pairs_batch(self) -> Batch:
        """DPO: pairs; rows of the SFT data where a round has none."""
        size, rng = self.options["batch_size"], self._random("batch", self.progress.step)
        pairs = range(len(self.round.examples) // 2)
        if not pairs:
            return collate(draw(self.course.examples, size, rng), self.course.pad_id)
        chosen = draw(pairs, max(1, size // 2), rng)
        return self._judged([index for pair in chosen for index in (2 * pair, 2 * pair + 1)])

    def _judged(self, indices: Sequence[int]) -> Judged:
        """The batch of these examples of the round."""
        now, method = self.round, self.stage.method
        batch = collate([now.examples[index] for index in indices], self.course.pad_id)
        width = batch.ids.shape[1] - 1

        def padded(values: list[list[float]]) -> Tensor | None:
            if not values:
                return None
            rows = [values[index] for index in indices]
            return torch.tensor([row + [0.0] * (width - len(row)) for row in rows])

        advantages = [now.advantages[index] for index in indices] if now.advantages else None
        return Judged(**vars(batch), method=method, old=padded(now.old),
                      reference=padded(now.reference),
                      advantages=None if advantages is None else torch.tensor(advantages))

    def _sample(self, prompts: int, number: int) -> None:
        """Draw this stage's round `number`: answers to so many training prompts, and what is to be
        learned of them."""
        self.progress.round = number
        rng, samples = self._random("prompts", number), self.rl["samples"]
        rows = draw(range(len(self.rows)), prompts, rng)
        asked = [self.prompts[row] for row in rows for _ in range(samples)]
        answers = self.backend.sample(asked, self.chat.eos_ids, self.max_new,
                                      rng.getrandbits(63))
        made = []
        for place, answer in enumerate(answers):
            row, text = self.rows[rows[place // samples]], self.chat.decode(answer.ids)
            worth = reward(row["answer"], text, len(answer.ids) / self.max_new,
                           self.rl["length_penalty"])
            ids = answer.ids + [self.end_id] * answer.ended
            made.append(Sampled(asked[place], ids, right(row["answer"], text), worth,
                                float(row.get("weight", 1.0))))
        groups = [made[start : start + samples] for start in range(0, len(made), samples)]
        self.round = choose(self.stage.method, groups, self.rl["keep"])
        self._read(sum(len(one.prompt) + len(one.ids) for one in made))
        self.told |= {"right": sum(one.right for one in made) / len(made),
                      "reward": sum(one.reward for one in made) / len(made),
                      "answers": len(made), "kept": len(self.round.examples)}

    def _read(self, tokens: int) -> None:
        """Count tokens that went through the model without learning."""
        self.progress.read += tokens
        self.told["read"] = self.told.get("read", 0) + tokens

    def _score(self) -> None:
        """Log-probabilities that the round's method needs: dpo's reference is the adapter that
        sampled; grpo's, that of the stage's start; what it differs from, of use after one step."""
        examples, pad = self.round.examples, self.course.pad_id
        tokens = sum(len(one.ids) for one in examples)
        grpo = self.stage.method == "grpo"
        if grpo and self.rl["updates"] > 1:
            self.round.old = self.backend.scored(examples, pad, self.rl["temperature"])
            self._read(tokens)
        if grpo and self.rl["kl"]:
            with self.backend.as_reference():
                self.round.reference = self.backend.scored(examples, pad, self.rl["temperature"])
            self._read(tokens)
        if not grpo and examples:
            self.round.reference = self.backend.scored(examples, pad, 1.0)
            self._read(tokens)

    def _random(self, what: str, number: int) -> random.Random:
        return random.Random(f"{what}-{self.run.seed}-{self.progress.stage}-{number}")

    def _restore(self, found: dict[str, Any]) -> None:
        self.progress = StagedProgress(**found["progress"])
        self.round = Round.of(found["round"])
        self.told, self.marks = found["told"], set(self.progress.marks)

    def _record(self) -> dict[str, Any]:
        return super()._record() | {"round": self.round.plain(), "told": self.told}


def draw(values: Sequence[T], count: int, rng: random.Random) -> list[T]:
    """`count` of the values: each once before any comes twice."""
    found: list[T] = []
    while len(found) < count:
        found += rng.sample(values, min(len(values), count - len(found)))
    return found
