"""Optuna's tree-structured Parzen estimator (Bergstra et al. 2011) as a searcher."""

from collections.abc import Sequence
from typing import Any

from aevo.errors import ConfigError
from aevo.studies.simulation.searchers import Observation, Searcher
from aevo.studies.simulation.space import Recipe, Space

NONE = "-"


class Tpe(Searcher):
    """One categorical parameter an axis: which of its moves, or none. The default recipe is tried
    first."""

    name = "tpe"

    def __init__(self, space: Space, seed: int) -> None:
        """Raises ConfigError where optuna is not installed."""
        super().__init__(space, seed)
        try:
            import optuna
        except ImportError as error:
            raise ConfigError("tpe needs optuna", "pip install 'aevo[simulate]'") from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=8, multivariate=False)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.choices: dict[str, list[str]] = {}
        for axis, move in space.keys:
            self.choices.setdefault(axis, [NONE]).append(move)
        self.study.enqueue_trial(dict.fromkeys(self.choices, NONE))
        self.asked: list[Any] = []

    def propose(self, count: int) -> list[Recipe]:
        self.asked = [self.study.ask() for _ in range(count)]
        return [self._recipe(trial) for trial in self.asked]

    def _recipe(self, trial: Any) -> Recipe:
        chosen = [
            (axis, trial.suggest_categorical(axis, moves)) for axis, moves in self.choices.items()
        ]
        return self.space.active(tuple(key for key in chosen if key[1] != NONE))

    def observe(self, seen: Sequence[Observation]) -> None:
        super().observe(seen)
        for trial, item in zip(self.asked, seen, strict=True):
            self.study.tell(trial, item.dev)
