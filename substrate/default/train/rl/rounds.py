"""From sampled answers to what is learned of them: the choice of RFT, the pairs of DPO, the groups
of GRPO. All of it is plain values, so that a round can lie in the state of a run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from train.batching import IGNORE, Example

EPSILON = 1e-6


@dataclass(frozen=True)
class Sampled:
    """One answer: `ids` with its end token, if it has ended, and what it is worth."""

    prompt: list[int]
    ids: list[int]
    right: bool
    reward: float
    weight: float

    def example(self) -> Example:
        """As a row to learn: the answer alone."""
        return Example(self.prompt + self.ids, [IGNORE] * len(self.prompt) + self.ids, self.weight)


@dataclass
class Round:
    """What one sampling left. `advantages` is GRPO's, one an example; `old` and `reference` are
    log-probabilities, a list an example, filled in where the method needs them; `updates` counts
    the steps that were taken on it."""

    examples: list[Example] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    old: list[list[float]] = field(default_factory=list)
    reference: list[list[float]] = field(default_factory=list)
    updates: int = 0

    def plain(self) -> dict[str, Any]:
        """For the state."""
        return vars(self) | {"examples": [[e.ids, e.labels, e.weight] for e in self.examples]}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Round:
        """Back from the state."""
        return cls(**plain | {"examples": [Example(*values) for values in plain["examples"]]})


def choose(method: str, groups: Sequence[Sequence[Sampled]], keep: str) -> Round:
    """What `method` learns of the answers, a group a prompt."""
    if method == "rft":
        return Round([one.example() for group in groups for one in kept(group, keep)])
    if method == "dpo":
        pairs = [pair for group in groups if (pair := opposed(group))]
        return Round([one.example() for pair in pairs for one in pair])
    found = Round()
    for group in groups:
        for one, advantage in zip(group, advantages(group), strict=True):
            if advantage:
                found.examples.append(one.example())
                found.advantages.append(advantage)
    return found


def kept(group: Sequence[Sampled], keep: str) -> list[Sampled]:
    """A prompt's right answers: all, those of different texts, or the shortest."""
    good = [one for one in group if one.right]
    if keep == "all" or not good:
        return good
    if keep == "shortest":
        return [min(good, key=lambda one: len(one.ids))]
    return list({tuple(one.ids): one for one in good}.values())


def opposed(group: Sequence[Sampled]) -> tuple[Sampled, Sampled] | None:
    """The answer of the highest reward and that of the lowest, if one is right and one is wrong."""
    best = max((one for one in group if one.right), key=lambda one: one.reward, default=None)
    worst = min((one for one in group if not one.right), key=lambda one: one.reward, default=None)
    return None if best is None or worst is None else (best, worst)


def advantages(group: Sequence[Sampled]) -> list[float]:
    """Each reward less the group's mean, by its standard deviation; all 0 where they are equal."""
    rewards = [one.reward for one in group]
    mean, spread = statistics.fmean(rewards), statistics.pstdev(rewards)
    return [(value - mean) / spread if spread > EPSILON else 0.0 for value in rewards]
