"""Checkpoint selection: the recipe's `select` section (`criterion`, `weights`), applied by the
trusted side to the scores that it measured."""

from dataclasses import dataclass
from typing import Any

from aevo.errors import SubstrateError
from aevo.files.keys import get_key
from aevo.records.scores import Score, weighted_mean

CRITERIA = ("dev", "reweighted", "last")


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
        return weighted_mean(score.domains, self.weights)


def criterion_of(recipe: dict[str, Any]) -> Criterion:
    """Reads the `select` section of a recipe; without one the criterion is `dev`.

    Raises:
        SubstrateError: unknown criterion, or weights that are not positive numbers.
    """
    name = get_key(recipe, "select.criterion") or "dev"
    weights = get_key(recipe, "select.weights") or {}
    if name not in CRITERIA:
        raise SubstrateError(f"select.criterion={name} is unknown", f"one of {', '.join(CRITERIA)}")
    if not isinstance(weights, dict) or not all(
        isinstance(value, int | float) and value >= 0 for value in weights.values()
    ):
        raise SubstrateError("select.weights must map domains to numbers >= 0")
    return Criterion(name, {key: float(value) for key, value in weights.items()})
