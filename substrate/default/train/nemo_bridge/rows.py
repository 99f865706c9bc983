"""Our rows as Megatron-Bridge's batches: tokens, labels, loss mask, positions; in the plan's order.

The dataset is as long as the run: item `step * batch_size + i` is row i of that step, so reading it
in order (dataloader type `single`) from the number of rows consumed is the plan, also on resume.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from train.batching import IGNORE, DataError, Example

MULTIPLE = 128  # of the row length: a chunk of the Mamba kernels
# Megatron counts learned tokens in whole numbers, microbatch by microbatch. Unequal weights are
# scaled up to this mean, so that cutting off a fraction changes no more than fp32 does.
MEAN_WEIGHT = 2.0**20
MOST = 2.0**30  # of the sum over a batch, an int32 there


def row_length(examples: Sequence[Example], limit: int) -> int:
    """Tokens of every row: the longest example's, rounded up, at most `limit`.

    Raises:
        DataError: an example is longer than `limit`.
    """
    longest = max(len(example.ids) for example in examples)
    if longest > limit:
        raise DataError(
            f"an example has {longest} tokens, a row at most {limit}: raise "
            "trainer.options.sequence, or set data.filter.max_chars"
        )
    return min(limit, (longest + MULTIPLE - 1) // MULTIPLE * MULTIPLE)


def weight_scale(examples: Sequence[Example], plan: Sequence[Sequence[int]]) -> float:
    """What weights are multiplied with before they become the loss mask; the mean loss does not
    change. Equal weights become 1.

    Raises:
        DataError: there is nothing to learn.
    """
    weights = [example.weight for example in examples if example.weight > 0]
    if not weights:
        raise DataError("every row has weight 0")
    if min(weights) == max(weights):
        return 1.0 / weights[0]
    heavy = [example.weight * sum(label != IGNORE for label in example.labels[1:])
             for example in examples]
    heaviest = max(sum(heavy[index] for index in step) for step in plan)
    return min(MEAN_WEIGHT * len(weights) / sum(weights), MOST / max(heaviest, 1e-8))


def row(example: Example, length: int, pad_id: int, scale: float) -> dict[str, Tensor]:
    """One example, right-padded; `labels[i]` is what follows `tokens[i]`.

    Returns tensors of (length,): tokens, labels, position_ids int64, loss_mask fp32.
    """
    tokens = torch.full((length,), pad_id)
    labels, mask = torch.full((length,), pad_id), torch.zeros(length)
    tokens[: len(example.ids)] = torch.tensor(example.ids)
    following = torch.tensor(example.labels[1:], dtype=torch.long)
    learned = following != IGNORE
    labels[: len(following)][learned] = following[learned]
    mask[: len(following)][learned] = example.weight * scale
    return {"tokens": tokens, "labels": labels, "loss_mask": mask,
            "position_ids": torch.arange(length)}


class Rows(Dataset[dict[str, Tensor]]):
    """All rows of a run, in the order of its plan."""

    def __init__(self, examples: Sequence[Example], plan: Sequence[Sequence[int]], length: int,
                 pad_id: int) -> None:
        self.examples, self.length, self.pad_id = examples, length, pad_id
        self.order = [index for step in plan for index in step]
        self.scale = weight_scale(examples, plan)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return row(self.examples[self.order[index]], self.length, self.pad_id, self.scale)
