"""From rows of train.jsonl to batches: what is asked, what is learned, and in which order.

The plan of a run (which rows make which step) is a pure function of seed and sizes, so a resumed
run needs only its step number.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from eval import files
from eval.chat import Chat
from torch import Tensor

PACK_LENGTH = 256  # tokens a row holds when packing
IGNORE = -100  # label of a position that is not learned
BOX = "\\boxed{"
THINK, THOUGHT = "<think>", "</think>"  # around reasoning, in chat templates that have it

Row = dict[str, Any]  # a line of train.jsonl


class DataError(ValueError):
    """train.jsonl is not what it should be; one line."""


@dataclass(frozen=True)
class Example:
    """One tokenised row: `labels[i]` is `ids[i]` where it is learned, else IGNORE."""

    ids: list[int]
    labels: list[int]
    weight: float


@dataclass(frozen=True)
class Batch:
    """Tensors of one step.

    ids, labels: (rows, length), right-padded; weights: (rows, length) fp32, the weight of each
    label; positions, mask and segments: None unless packed, then (rows, length), a boolean
    (rows, 1, length, length) that is True where a position may look, and (rows, length), the
    number of the example in its row, -1 for padding.
    """

    ids: Tensor
    labels: Tensor
    weights: Tensor
    positions: Tensor | None
    mask: Tensor | None
    tokens: int  # without padding
    segments: Tensor | None = None


@dataclass(frozen=True)
class Course:
    """What a run learns from: its examples, and which of them make which step."""

    examples: list[Example]
    plan: list[list[int]]
    pad_id: int
    packed: bool

    @classmethod
    def of(cls, rows: Sequence[Row], chat: Chat, options: dict[str, Any], seed: int,
           shuffle: bool) -> Course:
        """The course of a run with these `options`, the recipe's `train` section."""
        steps = plan(len(rows), options["batch_size"], options["steps"], seed, shuffle)
        examples = tokenize(rows, chat, options["loss"]["mask"])
        return cls(examples, steps, chat.pad_id, options["packing"])

    def batch(self, step: int) -> Batch:
        """The batch of a 0-based step."""
        examples = [self.examples[index] for index in self.plan[step]]
        if self.packed:
            return pack(examples, self.pad_id, PACK_LENGTH)
        return collate(examples, self.pad_id)

    def tokens(self, step: int) -> int:
        """Tokens of a 0-based step, without padding."""
        return sum(len(self.examples[index].ids) for index in self.plan[step])


def read_rows(path: Path) -> list[Row]:
    """Rows of train.jsonl.

    Raises:
        DataError: it is missing, empty, or a row lacks a field.
    """
    return files.read_rows(path, {"domain", "prompt", "completion"}, DataError)


def tokenize(rows: Sequence[Row], chat: Chat, mask: str) -> list[Example]:
    """All rows in one call of the tokenizer.

    Args:
        rows: rows of train.jsonl; `weight` (which carries the recipe's domain weights) is that of
            the row's tokens in the loss.
        mask: what is learned: `completion`, `answer` (from the last box on), or `all`.
    """
    texts = [chat.answered(row["prompt"], row["completion"]) for row in rows]
    for index, row in enumerate(rows):
        if texts[index][0].rstrip().endswith(THINK):
            answer = reasoned(row["completion"]) + chat.names["eos_token"]
            texts[index] = (texts[index][0], answer)
    # Prompt and completion are tokenised apart: at evaluation the prompt is, too.
    encoded = chat.encode([text for pair in texts for text in pair])
    examples = []
    for index, row in enumerate(rows):
        prompt, completion = encoded[2 * index], encoded[2 * index + 1]
        start = 0
        if mask == "answer":
            box = texts[index][1].rfind(BOX)
            start = next((i for i, (_, end) in enumerate(completion.offsets) if end > box), 0)
        labels = completion.ids[:]
        labels[:start] = [IGNORE] * start
        learned = prompt.ids if mask == "all" else [IGNORE] * len(prompt.ids)
        weight = float(row.get("weight", 1.0))
        examples.append(Example(prompt.ids + completion.ids, learned + labels, weight))
    return examples


def reasoned(completion: str) -> str:
    """What follows a prompt that opens `<think>`: the trace, `</think>` once, the answer."""
    if THOUGHT in completion:
        return completion.removeprefix(THINK).lstrip("\n")
    box = max(completion.rfind(BOX), 0)
    return f"{completion[:box].rstrip()}\n{THOUGHT}\n{completion[box:]}"


def plan(rows: int, batch: int, steps: int, seed: int, shuffle: bool) -> list[list[int]]:
    """Row indices of every step: passes over the data, each in its own order.

    With `shuffle` off the file's order is kept in every pass (a curriculum made by data.build).
    """
    rng = random.Random(f"plan-{seed}")
    stream: list[int] = []
    while len(stream) < steps * batch:
        order = list(range(rows))
        if shuffle:
            rng.shuffle(order)
        stream += order
    return [stream[step * batch : (step + 1) * batch] for step in range(steps)]


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    """One row an example, right-padded.

    A causal model does not see padding to the right, so no mask is needed.
    """
    width = _round_up(max(len(e.ids) for e in examples))
    ids = torch.full((len(examples), width), pad_id)
    labels = torch.full((len(examples), width), IGNORE)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        labels[row, : len(example.labels)] = torch.tensor(example.labels)
    weights = torch.tensor([e.weight for e in examples])[:, None].expand(-1, width)
    return Batch(ids, labels, weights, None, None, sum(len(e.ids) for e in examples))


def pack(examples: Sequence[Example], pad_id: int, length: int) -> Batch:
    """Several examples a row of `length`, first fit by falling size.

    Examples are isolated: positions restart and the mask lets a token see only its own example, so
    the loss is that of `collate` up to rounding. Attention keeps to the mask; recurrent layers must
    be told the segments, or they carry state from one example into the next.
    """
    length = max(length, _round_up(max(len(e.ids) for e in examples)))
    bins: list[list[Example]] = []
    room: list[int] = []
    for example in sorted(examples, key=lambda e: -len(e.ids)):  # stable, so deterministic
        size = len(example.ids)
        slot = next((i for i, free in enumerate(room) if free >= size), len(bins))
        if slot == len(bins):
            bins.append([])
            room.append(length)
        bins[slot].append(example)
        room[slot] -= size
    shape = (len(bins), length)
    ids, labels = torch.full(shape, pad_id), torch.full(shape, IGNORE)
    weights, positions = torch.zeros(shape), torch.zeros(shape, dtype=torch.long)
    # Padding is a segment of its own: a position must see something, or softmax gives NaN.
    segments = torch.full(shape, -1)
    for row, members in enumerate(bins):
        start = 0
        for number, example in enumerate(members):
            end = start + len(example.ids)
            ids[row, start:end] = torch.tensor(example.ids)
            # The first label of an example would be predicted from the one before it.
            labels[row, start:end] = torch.tensor([IGNORE, *example.labels[1:]])
            weights[row, start:end] = example.weight
            positions[row, start:end] = torch.arange(end - start)
            segments[row, start:end] = number
            start = end
    same = segments[:, :, None] == segments[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask = (same & causal)[:, None]
    tokens = sum(len(e.ids) for e in examples)
    return Batch(ids, labels, weights, positions, mask, tokens, segments)


def _round_up(length: int, multiple: int = 8) -> int:
    return (length + multiple - 1) // multiple * multiple
