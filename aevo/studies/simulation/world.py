"""What a run on a surface shows: noise of seeds and of items, and the leaderboard's rounding.

Every item has a difficulty. A recipe answers it if its domain's accuracy reaches the difficulty as
that run meets it: in part the item's own (the same for all), in part the recipe's (another recipe
finds other items hard), in part the run's (another seed flips some). Whatever the shares, the
expected score is the surface's true one.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from aevo.studies.simulation.space import Recipe
from aevo.studies.simulation.surface import Surface

DEEP = 3.0  # standard deviations that a run falls by if it misses a domain


@dataclass(frozen=True)
class Run:
    """One trained and evaluated recipe: dev by item, and what the leaderboard would say."""

    recipe: Recipe
    correct: np.ndarray
    dev: float
    hidden: float

    def board(self, decimals: int) -> float:
        """The score as the board shows it."""
        return round(self.hidden, decimals)


class World:
    """A surface with fixed sets of items. All randomness follows from `seed`."""

    def __init__(self, surface: Surface, seed: int) -> None:
        self.surface, self.seed = surface, seed
        chosen = surface.preset
        generator = np.random.default_rng([seed, 11])
        self.domain_of = _layout(surface.dev_weights, chosen.dev_items)
        self.hidden_domain_of = _layout(surface.hidden_weights, chosen.hidden_items)
        self.ids = [f"i{index:04d}" for index in range(len(self.domain_of))]
        self.domain_by_id = dict(
            zip(self.ids, (surface.domains[d] for d in self.domain_of), strict=True)
        )
        shares = 1 - chosen.flips - chosen.reshuffle, chosen.reshuffle, chosen.flips
        self.own, self.recipes, self.flips = np.sqrt(shares)
        self.difficulty = generator.standard_normal(len(self.domain_of))
        self.hidden_difficulty = generator.standard_normal(len(self.hidden_domain_of))

    def run(self, recipe: Recipe, seed: int, number: int) -> Run:
        """Trains a recipe once, as round `number` finds the world; the same arguments give the same
        run, as a training with a fixed seed does."""
        active = self.surface.active(recipe)
        dev, hidden = self.surface.accuracies(active, number)
        common = np.random.default_rng([self.seed, 13, seed]).standard_normal()
        shift = self.surface.preset.seed_sd * common
        mine = np.random.default_rng([self.seed, 17, _digest(active)])
        luck = np.random.default_rng([self.seed, 19, _digest(active), seed])
        if self.surface.preset.run_sd:
            on_dev, on_hidden = self._lucky(active, seed)
            dev, hidden = dev + on_dev, hidden + on_hidden
        correct = self._answers(dev + shift, self.domain_of, self.difficulty, mine, luck)
        board = self._answers(
            hidden + shift, self.hidden_domain_of, self.hidden_difficulty, mine, luck
        )
        return Run(active, correct, float(correct.mean()), float(board.mean()))

    def _lucky(self, recipe: Recipe, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """What this run's luck adds to the domains on dev and on hidden: mean 0, correlated."""
        chosen = self.surface.preset
        generator = np.random.default_rng([self.seed, 23, _digest(recipe), seed])
        sd = np.array([chosen.run_sd.get(name, 0.0) for name in self.surface.domains])
        sd = sd * self.surface.unrest(recipe)
        common = generator.standard_normal(sd.size)
        if chosen.run_tail:
            common = _with_tail(common, generator.random(sd.size), chosen.run_tail)
        own = generator.standard_normal((2, sd.size))
        both = np.sqrt(chosen.shared) * common + np.sqrt(1 - chosen.shared) * own
        return sd * both[0], sd * both[1]

    def _answers(
        self,
        accuracies: np.ndarray,
        domain_of: np.ndarray,
        difficulty: np.ndarray,
        mine: np.random.Generator,
        luck: np.random.Generator,
    ) -> np.ndarray:
        met = (
            self.own * difficulty
            + self.recipes * mine.standard_normal(difficulty.size)
            + self.flips * luck.standard_normal(difficulty.size)
        )
        reach = ndtri(np.clip(accuracies, 1e-9, 1 - 1e-9))
        return np.asarray(met < reach[domain_of])


def _with_tail(values: np.ndarray, chance: np.ndarray, share: float) -> np.ndarray:
    """Standard normal values of which a share falls `DEEP` lower, again with mean 0 and sd 1."""
    fallen = values - DEEP * (chance < share)
    return np.asarray((fallen + DEEP * share) / np.sqrt(1 + DEEP**2 * share * (1 - share)))


def _layout(weights: np.ndarray, items: int) -> np.ndarray:
    """The domain of each item, in the mixture's shares."""
    borders = np.round(np.cumsum(weights) * items).astype(int)
    return np.searchsorted(borders, np.arange(items), side="right")


def _digest(recipe: Recipe) -> int:
    """A number for a recipe, whatever the order of its moves."""
    return int.from_bytes(hashlib.sha256(repr(sorted(recipe)).encode()).digest()[:8])
