"""Other methods of search, at the same number of runs and under the same noise.

Each proposes recipes in batches and is told what they got. It ends with the recipe of best observed
dev, as a user without aevo's rules would, unless it says otherwise.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
            others = sorted(range(1, len(seen)), key=lambda i: -seen[i].dev)[: quota - 1]
            seen = [
                Observation(item.recipe, item.dev, board(item, batch, number))
                if index == 0 or index in others else item
                for index, item in enumerate(seen)
            ]
        searcher.observe(seen)
        spent += len(recipes)
        batch += 1
        if spent >= per_round * (len(stood) + 1):
            stood.append(searcher.best)
    return stood if spent == per_round * len(stood) else [*stood, searcher.best]


SEARCHERS: dict[str, type[Searcher]] = {
    found.name: found for found in (Greedy, GreedyAnchor, GreedyBoard, Random, MapElites)
}
