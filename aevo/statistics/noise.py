"""What chance alone explains: the spread of scores between runs of one recipe.

A standard deviation from two or three runs is hardly known, so each is pooled with the one that a
prior implies, which counts for `PRIOR_DOF` degrees of freedom (a hierarchical estimate with a fixed
hyperprior; with many runs the measurement decides).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

EPSILON = 1e-9  # differences of scores rounded to two decimals are not exact in binary
PRIOR_DOF = 2  # how many degrees of freedom a prior counts for
MAD = 1.4826  # a normal standard deviation in median absolute deviations
FLIPPED = 0.4  # of p(1-p)/n: what single items add to a run's variance (0.3 to 0.6 on tiny)


@dataclass(frozen=True)
class SeedBand:
    """Spread of a score between runs of one recipe; `sd` is None below one degree of freedom."""

    sd: float | None
    runs: int
    dof: int


def seed_band(groups: Mapping[str, Sequence[float]]) -> SeedBand:
    """Pools the variance within groups of runs that share a recipe digest."""
    repeated = [values for values in groups.values() if len(values) > 1]
    runs = sum(len(values) for values in repeated)
    dof = runs - len(repeated)
    if dof < 1:
        return SeedBand(None, runs, 0)
    squares = sum(float(np.var(values)) * len(values) for values in repeated)
    return SeedBand(math.sqrt(squares / dof), runs, dof)


@dataclass(frozen=True)
class Variance:
    """An estimated variance and the degrees of freedom that it was estimated with."""

    value: float
    dof: float


def pooled(prior: float, *measured: Variance) -> Variance:
    """Measurements of one variance with a prior, which counts for `PRIOR_DOF`."""
    known = [Variance(prior, PRIOR_DOF), *measured]
    dof = sum(item.dof for item in known)
    return Variance(sum(item.value * item.dof for item in known) / dof, dof)


def by_recipe(prior: float, own: SeedBand, others: SeedBand, *measured: Variance) -> Variance:
    """Variance between runs of one recipe.

    Runs of the campaign's other recipes say what is usual here, and so only move what the prior
    expects, half of the way at most: a recipe of a higher rate is noisier, and would otherwise be
    thought as quiet as the one before it.
    """
    usual = prior
    if others.sd is not None:
        weight = min(others.dof, PRIOR_DOF)
        usual = (PRIOR_DOF * prior + weight * others.sd**2) / (PRIOR_DOF + weight)
    seen = [] if own.sd is None else [Variance(own.sd**2, own.dof)]
    return pooled(usual, *seen, *measured)


def implied_variance(band: float) -> float:
    """Variance of one run's score where `band` is the difference of two runs that the operator
    takes for chance: 2 standard deviations of a difference, 2*sqrt(2)*sd."""
    return (band / (2 * math.sqrt(2))) ** 2


def difference_band(prior: float, run: float) -> float:
    """The difference between two runs that seeds alone explain: 2 sd of a difference, where `run`
    is the variance of one run's score.

    The prior is also the floor: two runs that happen to agree do not make small gains real.
    """
    return max(prior, 2 * math.sqrt(2 * run))


def lb_step(decimals: int, prior: float) -> float:
    """The leaderboard move that is noise before anything is measured: the operator's prior (1 sd of
    the difference of two scores of one recipe), or one step of the rounding if that is coarser."""
    return max(prior, 10.0**-decimals)


def lb_noise(decimals: int, prior: float, score: float) -> float:
    """The difference of two leaderboard scores that chance explains (1 sd), at least `lb_step`;
    `score` is the variance of one score."""
    return max(lb_step(decimals, prior), math.sqrt(2 * score))


def rounding(decimals: int) -> float:
    """Variance of the uniform error that rounding to so many decimals adds."""
    return (10.0**-decimals) ** 2 / 12


def beyond_items(runs: Sequence[Mapping[str, tuple[float, int]]]) -> Mapping[str, Variance]:
    """By domain, how much a run's accuracy varies beyond what single items explain.

    `runs` are a round's runs, each with accuracy and number of items by domain. Most moves do
    little to most domains, so the middle of the runs' deviations from their median is noise and the
    far ones may be effects: the spread is 1.48 median absolute deviations (after Lenth 1989, who
    judges unreplicated designs by their own scatter), with half of the degrees of freedom.
    """
    found = {}
    for name in sorted(set.intersection(*(set(run) for run in runs))) if len(runs) > 3 else []:
        values = np.array([run[name][0] for run in runs])
        level, items = float(np.median(values)), runs[0][name][1]
        away = np.abs(values - level)
        spread = MAD * float(np.median(away))
        single = FLIPPED * level * (1 - level) / items
        found[name] = Variance(max(0.0, spread**2 - single), (len(runs) - 1) / 2)
    return found
