"""Checkpoint selection: the recipe's `select` section (`criterion`, `weights`), applied by the
trusted side to the scores that it measured."""

from dataclasses import dataclass
from typing import Any

from aevo.errors import SubstrateError
from aevo.files.keys import get_key
from aevo.files.untrusted import shown
from aevo.records.scores import Score, weighted_mean

CRITERIA = ("dev", "reweighted", "last")
MOST = 1e6  # a weight


@dataclass(frozen=True)
class Criterion:
    """`dev`: mean over items; `reweighted`: weighted mean of domain accuracies (a domain without
    a weight counts 1); `last`: the last step."""

    name: str
    weights: dict[str, float]

    def score(self, score: Score, step: int) -> float:
        """What a checkpoint is ranked by; higher is better."""
        if self.name == "last":
            return float(step)
        if self.name == "dev":
            return score.dev or 0.0
        if not any(self.weights.get(name, 1.0) for name in score.domains):
            return score.dev or 0.0  # of the domains that there are, none has a weight
        return weighted_mean(score.domains, self.weights)


def criterion_of(recipe: dict[str, Any]) -> Criterion:
    """Reads the `select` section of a recipe; without one the criterion is `dev`.

    Raises:
        SubstrateError: unknown criterion, or weights that are no finite numbers from 0 to 1e6 of
            which one is above 0.
    """
    name, weights = (get_key(recipe, f"select.{key}") for key in ("criterion", "weights"))
    name, weights = "dev" if name is None else name, {} if weights is None else weights
    if name not in CRITERIA:
        raise SubstrateError(
            f"select.criterion={shown(name)} is unknown", f"one of {', '.join(CRITERIA)}"
        )
    if not isinstance(weights, dict) or not all(_is_weight(value) for value in weights.values()):
        raise SubstrateError(f"select.weights must map domains to numbers from 0 to {MOST:g}")
    if weights and not any(weights.values()):
        raise SubstrateError("select.weights are all zero", "give one of them a number above 0")
    return Criterion(name, {key: float(value) for key, value in weights.items()})


def _is_weight(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value <= MOST  # NaN is not
