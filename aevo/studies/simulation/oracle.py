"""An opponent that knows how surfaces are drawn, though not the one that it is on: the headroom.

It is told what no method can know: mean and spread of every move's effects on dev, on the target,
and of what a proxy adds; the round from which dev misleads; how much two gains lose together; how
noisy scores are. With that a linear normal model is the right one up to the tails. Runs are
Thompson samples of it; what it stands by is its expectation's best. No bound in the strict sense:
a better use of the same knowledge may be thinkable.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aevo.studies.simulation.searchers import Observation, Searcher
from aevo.studies.simulation.space import Key, Recipe, Space
from aevo.studies.simulation.surface import Preset, draw
from aevo.studies.simulation.world import World

DRAWN = 300  # surfaces that the distribution is read off
LEVEL = 0.02  # sd of how much harder a campaign's items are than others, on dev and on the target
FOREIGN = 10**9  # seeds of surfaces that no study plays on
LONGEST = 12  # moves of a recipe


@dataclass(frozen=True)
class Knowledge:
    """How surfaces of a preset are drawn. Effects are columns (dev, target, what a proxy adds to
    dev) of every move: means (moves, 3) and covariances (moves, 3, 3)."""

    means: np.ndarray
    covariances: np.ndarray
    start: np.ndarray  # the default recipe's scores on dev and on the target
    noise: np.ndarray  # variances of what one run's scores there miss the truth by
    overlap: float
    proxy_cost: float
    onset: int | None


_KNOWN: dict[tuple[str, tuple[Key, ...]], Knowledge] = {}


def knowledge(chosen: Preset, space: Space) -> Knowledge:
    """What there is to know of a preset's surfaces; worked out once a process."""
    at = chosen.model_dump_json(), tuple(space.keys)
    if at not in _KNOWN:
        _KNOWN[at] = _read_off(chosen, space)
    return _KNOWN[at]


def _read_off(chosen: Preset, space: Space) -> Knowledge:
    surfaces = [draw(chosen, space, FOREIGN + index) for index in range(DRAWN)]
    effects = np.array(
        [
            np.stack([s.dev @ s.dev_weights, s.hidden @ s.hidden_weights, s.proxies], axis=1)
            for s in surfaces
        ]
    )
    means = effects.mean(axis=0)
    apart = effects - means
    covariances = np.einsum("nmi,nmj->mij", apart, apart) / (DRAWN - 1)
    world = World(surfaces[0], FOREIGN)
    missed = np.array(
        [
            np.subtract((run.dev, run.board(chosen.decimals)), surfaces[0].truth(run.recipe, 1))
            for seed, key in enumerate(space.keys)
            for run in [world.run((key,), seed, 1)]
        ]
    )
    return Knowledge(
        means,
        covariances + 1e-10 * np.eye(3),
        np.array(surfaces[0].truth((), 1)),
        missed.var(axis=0, ddof=1),
        chosen.interaction,
        chosen.proxy_cost,
        chosen.onset,
    )


class Oracle(Searcher):
    """Bayesian search with the true prior (this module)."""

    name = "oracle"
    batch = 9
    submits = True

    def __init__(self, space: Space, seed: int, known: Knowledge, rounds: int) -> None:
        super().__init__(space, seed)
        self.known, self.rounds, self.number = known, rounds, 1
        self.place = {key: row for row, key in enumerate(space.keys)}
        count = 3 * len(self.place)
        self.mean = np.append(known.means.reshape(-1), (0.0, 0.0))  # and the items' levels
        self.covariance = np.diag(np.full(count + 2, LEVEL**2))
        for row, own in enumerate(known.covariances):
            self.covariance[3 * row : 3 * row + 3, 3 * row : 3 * row + 3] = own
        self.samples = np.random.default_rng([seed, 37])

    def propose(self, count: int) -> list[Recipe]:
        values, vectors = np.linalg.eigh(self.covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        width = 0.5 if self.number >= self.rounds else 1.0  # the last: near what it expects most of
        draws = (root @ self.samples.standard_normal(self.mean.size) for _ in range(count - 1))
        drawn = [self._top(self.mean + width * one) for one in draws]
        return [self._top(self.mean), *drawn][:count]

    def submitted(self, seen: Sequence[Observation], quota: int) -> list[int]:
        gains = [self._gain(self.mean, item.recipe) for item in seen]
        return sorted(range(1, len(seen)), key=lambda i: -gains[i])[: quota - 1]

    def observe(self, seen: Sequence[Observation]) -> None:
        for item in seen:
            self._learn(self._row(item.recipe, board=False), item.dev, item.recipe, 0)
            if item.lb is not None:
                self._learn(self._row(item.recipe, board=True), item.lb, item.recipe, 1)
        self.number += 1
        self.best = self._top(self.mean)

    def _misled(self) -> bool:
        return self.known.onset is not None and self.number >= self.known.onset

    def _row(self, recipe: Recipe, board: bool) -> np.ndarray:
        """What a score is made of, this round."""
        row = np.zeros(self.mean.size)
        row[board - 2] = 1.0
        for key in recipe:
            at = 3 * self.place[key]
            row[at + board] = 1.0
            if self._misled():
                row[at + 2] = -self.known.proxy_cost if board else 1.0
        return row

    def _learn(self, row: np.ndarray, score: float, recipe: Recipe, side: int) -> None:
        lost = self._lost(self._effects(self.mean), recipe)
        reach = self.covariance @ row
        variance = float(row @ reach) + float(self.known.noise[side]) + (0.5 * lost) ** 2
        missed = score - float(self.known.start[side]) + lost - float(row @ self.mean)
        self.mean = self.mean + reach * (missed / variance)
        self.covariance = self.covariance - np.outer(reach, reach) / variance

    def _effects(self, values: np.ndarray) -> np.ndarray:
        """Every move's gain on the target, as the world will be in the end."""
        values = values[:-2]
        own = values[1::3]
        ends = self.known.onset is not None and self.rounds >= self.known.onset
        return np.asarray(own - self.known.proxy_cost * values[2::3] if ends else own)

    def _lost(self, effects: np.ndarray, recipe: Recipe) -> float:
        """What the recipe's gains are expected to lose by standing together."""
        gains = sorted(max(0.0, float(effects[self.place[key]])) for key in recipe)
        return self.known.overlap * sum(
            gain * (len(gains) - 1 - index) for index, gain in enumerate(gains)
        )

    def _gain(self, values: np.ndarray, recipe: Recipe) -> float:
        effects = self._effects(values)
        whole = sum(float(effects[self.place[key]]) for key in recipe)
        return whole - self._lost(effects, recipe)

    def _top(self, values: np.ndarray) -> Recipe:
        """The best moves of different knobs, as long as one more gains more than it loses."""
        effects = self._effects(values)
        recipe: list[Key] = []
        for key in sorted(self.place, key=lambda key: -effects[self.place[key]]):
            gain = float(effects[self.place[key]])
            if len(recipe) == LONGEST or gain * (1 - self.known.overlap * len(recipe)) <= 0:
                break
            if not any(other in self.space.rivals[key] for other in recipe):
                recipe.append(key)
        return tuple(recipe)
