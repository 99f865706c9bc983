"""Stages of a run and what they may cost: pure functions of the recipe.

The budget of every run is what SFT alone would train: the tokens of train.steps batches of
train.batch_size rows. Against it counts each token that is *trained* on, and each that the model
*reads or writes* without learning from it: prompts and answers when sampling, and answers that are
scored for a reference. A token of either kind counts one, though one that is only read costs about
half of the computation (one pass, not two): the comparison is never in favour of RL.

Knobs, all optional, in recipe.yaml below `train` (defaults: RL in data/recipe.py):

    stages: {grpo: 0.5}     # shares of the budget that rft, dpo and grpo get, in this order, after
                            # sft, which has the rest; without it sft alone
    rl:
      samples: 8            # answers to a prompt; grpo's group
      temperature: 1.0      # of sampling
      max_new: null         # tokens of an answer; null: the longest completion of the data, and 4
      rounds: 2             # rft, dpo: times that the adapter of that moment is sampled
      sampled: 0.5          # rft, dpo: share of a round's budget that goes into sampling
      keep: unique          # rft: of a prompt's right answers all, the different or the shortest
      mix: 0.5              # rft: share of a batch that are rows of the SFT data
      learning_rate: 5.0e-4 # dpo, grpo: peak (sft and rft: train.learning_rate)
      beta: 0.1             # dpo: weight of the reference
      kl: 0.0               # grpo: weight of the distance to the adapter that the stage began with
      clip: 0.2             # grpo: how far a token's ratio counts; of use where updates > 1
      updates: 1            # grpo: steps on one sampling
      length_penalty: 0.0   # dpo, grpo: taken off the reward of an answer of max_new tokens
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data.recipe import METHODS, RL

EPSILON = 1e-6  # of a budget: nothing


@dataclass(frozen=True)
class Stage:
    """One of a run's: its method, and where it lies in the budget, in tokens."""

    method: str
    start: float
    end: float

    @property
    def size(self) -> float:
        """Tokens that it may spend."""
        return self.end - self.start

    def part(self, spent: float) -> float:
        """How much of it is done when so many tokens of the whole run are spent: 0 to 1."""
        return min(1.0, max(0.0, (spent - self.start) / self.size))


def staged(options: dict[str, Any]) -> bool:
    """Whether `options`, the recipe's `train` section, ask for more than SFT."""
    return bool(shares(options))


def shares(options: dict[str, Any]) -> dict[str, float]:
    """Method -> its share of the budget, of those that have one; SFT's is not among them."""
    given = options.get("stages") or {}
    return {method: given[method] for method in METHODS if given.get(method)}


def settings(options: dict[str, Any]) -> dict[str, Any]:
    """The recipe's `train.rl` with the defaults of what it does not say."""
    return RL | (options.get("rl") or {})


def stages(options: dict[str, Any], budget: int) -> list[Stage]:
    """The stages of a run of this budget, in order: SFT has what the others leave."""
    others = shares(options)
    wanted = {"sft": 1.0 - sum(others.values())} | others
    wanted = {method: share for method, share in wanted.items() if share > EPSILON}
    found, start = [], 0.0
    for number, (method, share) in enumerate(wanted.items(), 1):
        end = float(budget) if number == len(wanted) else start + share * budget
        found.append(Stage(method, start, end))
        start = end
    return found


def current(found: list[Stage], spent: float) -> int:
    """The number of the stage that is due; the last one at the end."""
    return next((n for n, stage in enumerate(found) if spent < stage.end), len(found) - 1)
