"""Two models on the same items: paired differences, their intervals and tests."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

BOOTSTRAP_SEED = 20260601
BOOTSTRAP_DRAWS = 10_000
POWER = 0.8  # of the minimum detectable effect


@dataclass(frozen=True)
class Paired:
    """Two models on the same items: `won` and `lost` count items that changed sides."""

    n: int
    won: int
    lost: int
    gain: float
    low: float
    high: float
    p: float


def paired(anchor: Mapping[str, bool], explorer: Mapping[str, bool]) -> Paired:
    """Compares item by item on the ids both have.

    The interval is a paired bootstrap: resampling items with replacement only needs the counts of
    won, lost and unchanged items, which are multinomial. p is McNemar's, exact and two-sided.

    Raises:
        ValueError: the two have no item in common.
    """
    common = list(anchor.keys() & explorer.keys())
    if not common:
        raise ValueError("no common items")
    n = len(common)
    one, other = answers(anchor, common), answers(explorer, common)
    won, lost = int((other & ~one).sum()), int((one & ~other).sum())
    low, high = _bootstrap(n, won, lost)
    return Paired(n, won, lost, (won - lost) / n, low, high, mcnemar(won, lost))


def answers(run: Mapping[str, bool], items: Sequence[str]) -> np.ndarray:
    """A run's answers to the items, in their order; shape (items,), bool.

    Raises:
        KeyError: the run has no answer to one of them.
    """
    return np.fromiter(map(run.__getitem__, items), bool, len(items))


@lru_cache(maxsize=65_536)
def _bootstrap(n: int, won: int, lost: int) -> tuple[float, float]:
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    shares = [won / n, lost / n, max(0.0, 1 - (won + lost) / n)]
    draws = generator.multinomial(n, shares, size=BOOTSTRAP_DRAWS)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / n, [0.025, 0.975])
    return float(low), float(high)


@lru_cache(maxsize=65_536)
def mcnemar(won: int, lost: int) -> float:
    """Exact two-sided p that as uneven a split of changed items is chance; 1 if none changed."""
    if won == lost:
        return 1.0
    changed, tail, ways = won + lost, 0, 1
    for count in range(min(won, lost) + 1):  # whole numbers: nothing is rounded
        tail += ways
        ways = ways * (changed - count) // (count + 1)
    return min(1.0, tail / 2 ** (changed - 1))  # an even coin: both tails are alike


def item_difference(
    anchors: Sequence[Mapping[str, bool]],
    explorers: Sequence[Mapping[str, bool]],
    items: Sequence[str],
) -> tuple[float, float]:
    """Mean difference of an explorer's runs to several anchor runs, and its squared standard error
    over items (0 for a single item)."""
    reference = np.array([answers(run, items) for run in anchors], float).mean(axis=0)
    change = np.array([answers(run, items) for run in explorers], float).mean(axis=0) - reference
    variance = float(change.var(ddof=1)) / len(items) if len(items) > 1 else 0.0
    return float(change.mean()), variance


def flip_variance(runs: Sequence[Mapping[str, bool]], items: Sequence[str]) -> float:
    """How much a run's score varies because single items flip between runs of one recipe.

    Half of the mean share of items on which two runs differ, over the number of items: what is left
    of a seed's variance is common to all items. 0 where there are no two runs.
    """
    if len(runs) < 2 or not items:
        return 0.0
    table = [answers(run, items) for run in runs]
    differ = [
        float(np.mean(table[i] != table[j]))
        for i in range(len(runs))
        for j in range(i + 1, len(runs))
    ]
    return sum(differ) / len(differ) / 2 / len(items)


def detectable(se: float, alpha: float, tests: int) -> float:
    """The smallest gain that a one-sided test finds with a power of 80 %, where `tests` tests share
    the error rate `alpha` evenly, which is what Holm gives the first of them."""
    from scipy.special import ndtri

    return float(se * (ndtri(POWER) - ndtri(alpha / max(tests, 1))))


@lru_cache(maxsize=4096)
def t_quantile(dof: float, level: float) -> float:
    """Student's t; scipy is loaded only where it is asked for."""
    from scipy.special import stdtrit

    return float(stdtrit(dof, level))


def above_zero(gain: float, se: float, dof: float = math.inf) -> float:
    """One-sided p that a gain of this size is chance (Student's t; normal by default)."""
    if se <= 0:
        return 0.0 if gain > 0 else 1.0
    if math.isfinite(dof):
        from scipy.special import stdtr

        return float(stdtr(dof, -gain / se))
    return 0.5 * math.erfc(gain / se / math.sqrt(2))
