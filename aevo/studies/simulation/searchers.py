"""Other methods of search, at the same number of runs and under the same noise.

Each proposes recipes in batches and is told what they got. It ends with the recipe of best observed
dev, as a user without aevo's rules would, unless it says otherwise.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from aevo.studies.simulation.space import Key, Recipe, Space


@dataclass(frozen=True)
class Observation:
    """What one run got; `lb` is None where it was not submitted."""

    recipe: Recipe
    dev: float
    lb: float | None = None


class Searcher:
    """A method: `batch` runs are proposed at a time; `submits` asks for leaderboard scores of the
    batch's first run (an anchor) and of its best others, as many as the quota allows."""

    name = ""
    batch = 1
    submits = False

    def __init__(self, space: Space, seed: int) -> None:
        self.space, self.random = space, random.Random(f"{self.name}:{seed}")
        self.best: Recipe = ()
        self.best_dev = float("-inf")

    def propose(self, count: int) -> list[Recipe]:
        """The next `count` recipes to run."""
        raise NotImplementedError

    def submitted(self, seen: Sequence[Observation], quota: int) -> list[int]:
        """Which of a batch are scored besides its first: by default those of best dev."""
        return sorted(range(1, len(seen)), key=lambda i: -seen[i].dev)[: quota - 1]

    def observe(self, seen: Sequence[Observation]) -> None:
        """Takes up the results; by default the best dev so far is kept."""
        for item in seen:
            if item.dev > self.best_dev:
                self.best, self.best_dev = item.recipe, item.dev

    def another(self, recipe: Recipe, used: set[Key] | None = None) -> Recipe:
        """A neighbour: the recipe with a move that it lacks."""
        free = [key for key in self.space.keys if key not in recipe and key not in (used or ())]
        free = free or [key for key in self.space.keys if key not in recipe]
        key = self.random.choice(free)
        if used is not None:
            used.add(key)
        return self.space.with_move(recipe, key)


class Greedy(Searcher):
    """Hill climbing on dev: one new move on the best so far, kept if dev is better."""

    name = "greedy"

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__(space, seed)
        self.used: set[Key] = set()

    def propose(self, count: int) -> list[Recipe]:
        if self.best_dev == float("-inf"):
            return [()]
        return [self.another(self.best, self.used) for _ in range(count)]


class GreedyAnchor(Searcher):
    """In batches with an anchor of their own: the best move of a batch is kept if it beats the
    anchor's dev."""

    name = "greedy_anchor"
    batch = 9

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__(space, seed)
        self.used: set[Key] = set()

    def propose(self, count: int) -> list[Recipe]:
        return [self.best] + [self.another(self.best, self.used) for _ in range(count - 1)]

    def observe(self, seen: Sequence[Observation]) -> None:
        anchor, others = seen[0], seen[1:]
        top = max(others, key=lambda item: item.dev, default=anchor)  # a last batch of one
        if top.dev > anchor.dev:
            self.best = top.recipe


class GreedyBoard(GreedyAnchor):
    """The same, but the leaderboard decides among what was submitted: the best score is kept if it
    beats the anchor's."""

    name = "greedy_board"
    submits = True

    def observe(self, seen: Sequence[Observation]) -> None:
        scored = [item for item in seen[1:] if item.lb is not None]
        anchor = seen[0].lb
        if not scored or anchor is None:
            return
        top = max(scored, key=lambda item: (item.lb or 0.0, item.dev))
        if (top.lb or 0.0) > anchor:
            self.best = top.recipe


class GreedyConfirmed(GreedyBoard):
    """The same, but what won on the leaderboard is kept only if it beats the anchor there in a
    second batch too."""

    name = "greedy_confirmed"

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__(space, seed)
        self.pending: Recipe | None = None

    def propose(self, count: int) -> list[Recipe]:
        found = super().propose(count)
        if self.pending is not None and count > 1:
            found[1] = self.pending
        return found

    def submitted(self, seen: Sequence[Observation], quota: int) -> list[int]:
        order = super().submitted(seen, quota)
        if self.pending is None or len(seen) < 2:
            return order
        return [1, *(index for index in order if index != 1)][: quota - 1]

    def observe(self, seen: Sequence[Observation]) -> None:
        asked, before = self.pending, self.best
        super().observe(seen)
        won, self.best, self.pending = self.best, before, None
        if asked is not None and len(seen) > 1 and (seen[1].lb or 0.0) > (seen[0].lb or 0.0):
            self.best = asked
        elif won != before and won != asked:
            self.pending = won


class Thompson(Searcher):
    """Linear Thompson sampling (Agrawal and Goyal 2013): a normal effect on the leaderboard a move,
    dev taken for a leaderboard score of twice its variance; each run is the best recipe under a
    sample of the posterior, and what stands is the best under its mean."""

    name = "thompson"
    batch = 9
    submits = True
    SPREAD, NOISE = 0.02, 0.012  # of effects and of one score

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__(space, seed)
        self.place = {key: row for row, key in enumerate(space.keys)}
        count = len(self.place)
        self.precision = np.eye(count + 1) / self.SPREAD**2
        self.precision[-1, -1] = 1.0  # the default recipe's score
        self.weighted = np.zeros(count + 1)
        self.samples = np.random.default_rng([seed, 31])

    def propose(self, count: int) -> list[Recipe]:
        mean, root = self._belief()
        draws = (mean + root @ self.samples.standard_normal(mean.size) for _ in range(count - 1))
        return [self.best, *(self._top(draw) for draw in draws)][:count]

    def observe(self, seen: Sequence[Observation]) -> None:
        for item in seen:
            score, variance = item.lb, self.NOISE**2
            if score is None:
                score, variance = item.dev, 2 * variance
            row = np.zeros(self.weighted.size)
            row[[self.place[key] for key in item.recipe]] = 1.0
            row[-1] = 1.0
            self.precision += np.outer(row, row) / variance
            self.weighted += row * (score - 0.6) / variance
        self.best = self._top(self._belief()[0])

    def _belief(self) -> tuple[np.ndarray, np.ndarray]:
        """The posterior's mean, and a root of its covariance."""
        covariance = np.linalg.inv(self.precision)
        return covariance @ self.weighted, np.linalg.cholesky(covariance)

    def _top(self, effects: np.ndarray) -> Recipe:
        """The best moves of different knobs, at most four, that are gains at all."""
        recipe: list[Key] = []
        for key in sorted(self.place, key=lambda key: -effects[self.place[key]]):
            if len(recipe) == 4 or effects[self.place[key]] <= 0:
                break
            if not any(other in self.space.rivals[key] for other in recipe):
                recipe.append(key)
        return tuple(recipe)


class Halving(Searcher):
    """Successive halving (Jamieson and Talwalkar 2016) on the leaderboard: of a batch of recipes of
    one to three moves the better half goes on with a move more and is scored again."""

    name = "halving"
    batch = 9
    submits = True

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__(space, seed)
        self.scores: dict[Recipe, list[float]] = {}

    def propose(self, count: int) -> list[Recipe]:
        kept = sorted(self.scores, key=self._mean, reverse=True)[: count // 2]
        fresh = [
            self.another(self.random.choice(kept) if kept else ()) for _ in range(count - len(kept))
        ]
        return [*kept, *fresh]

    def _mean(self, recipe: Recipe) -> float:
        return sum(self.scores[recipe]) / len(self.scores[recipe])

    def observe(self, seen: Sequence[Observation]) -> None:
        for item in seen:
            if item.lb is not None:
                self.scores.setdefault(item.recipe, []).append(item.lb)
        if self.scores:
            self.best = max(self.scores, key=lambda one: (self._mean(one), len(self.scores[one])))


class Random(Searcher):
    """Independent recipes of one to three random moves; the best dev wins."""

    name = "random"

    def propose(self, count: int) -> list[Recipe]:
        return [self._one() for _ in range(count)]

    def _one(self) -> Recipe:
        recipe: Recipe = ()
        for _ in range(self.random.randint(1, 3)):
            recipe = self.another(recipe)
        return recipe


class MapElites(Searcher):
    """MAP-Elites (Mouret and Clune 2015): niches by the number of moves and whether the mixture is
    touched; a random elite is mutated by adding, dropping or swapping a move, and kept if its dev
    is the best of its niche."""

    name = "map_elites"

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__(space, seed)
        self.elites: dict[tuple[int, bool], Observation] = {}

    def propose(self, count: int) -> list[Recipe]:
        if not self.elites:
            return [()]
        return [self._mutant() for _ in range(count)]

    def _mutant(self) -> Recipe:
        parent = self.random.choice(list(self.elites.values())).recipe
        act = self.random.random()
        if parent and act < 0.4:
            gone = self.random.choice(parent)
            parent = tuple(key for key in parent if key != gone)
            if act < 0.15 and parent:
                return parent
        return self.another(parent)

    def observe(self, seen: Sequence[Observation]) -> None:
        super().observe(seen)
        for item in seen:
            mixed = any(self.space.category[axis] == "data_mixture" for axis, _ in item.recipe)
            niche = (min(len(item.recipe), 4), mixed)
            if niche not in self.elites or item.dev > self.elites[niche].dev:
                self.elites[niche] = item


Trial = Callable[[Recipe, int, int], Observation]  # recipe, seed, round
Board = Callable[[Observation, int, int], float]  # what the leaderboard says of that run


def search(
    searcher: Searcher, trial: Trial, board: Board, runs: int, per_round: int, quota: int
) -> list[Recipe]:
    """Spends exactly `runs` runs; what the method stands by after each round, the last at the end.

    Runs of one batch share a seed, as candidates of a round do; batches do not. `per_round` runs
    make a round, for worlds that change over rounds.
    """
    spent = batch = 0
    stood: list[Recipe] = []
    while spent < runs:
        count = min(searcher.batch, runs - spent)
        recipes = searcher.propose(count)
        number = 1 + spent // per_round
        seen = [trial(recipe, batch, number) for recipe in recipes]
        if searcher.submits and len(seen) > 1:
            others = searcher.submitted(seen, quota)
            seen = [
                Observation(item.recipe, item.dev, board(item, batch, number))
                if index == 0 or index in others
                else item
                for index, item in enumerate(seen)
            ]
        searcher.observe(seen)
        spent += len(recipes)
        batch += 1
        if spent >= per_round * (len(stood) + 1):
            stood.append(searcher.best)
    return stood if spent == per_round * len(stood) else [*stood, searcher.best]


SEARCHERS: dict[str, type[Searcher]] = {
    found.name: found
    for found in (
        Greedy,
        GreedyAnchor,
        GreedyBoard,
        GreedyConfirmed,
        Thompson,
        Halving,
        Random,
        MapElites,
    )
}
