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


def run_variance(prior: float, seeds: SeedBand) -> float:
    """Variance of one run's score between seeds. `prior` is the difference of two runs that the
    operator takes for chance: 2 standard deviations of a difference, 2*sqrt(2)*sd."""
    implied = (prior / (2 * math.sqrt(2))) ** 2
    if seeds.sd is None:
        return implied
    return (PRIOR_DOF * implied + seeds.dof * seeds.sd**2) / (PRIOR_DOF + seeds.dof)


def difference_band(prior: float, seeds: SeedBand) -> float:
    """The difference between two runs that seeds alone explain: 2 sd of a difference.

    The prior is also the floor: two runs that happen to agree do not make small gains real.
    """
    return max(prior, 2 * math.sqrt(2 * run_variance(prior, seeds)))


def lb_step(decimals: int, prior: float) -> float:
    """The leaderboard move that is noise before anything is measured: the operator's prior (1 sd of
    the difference of two scores of one recipe), or one step of the rounding if that is coarser."""
    return max(prior, 10.0**-decimals)


def lb_variance(decimals: int, repeats: SeedBand, prior: float) -> float:
    """Variance of one leaderboard score between runs of one recipe.

    `repeats` is the spread of scores that anchors of one recipe got, pooled with the prior.
    Rounding adds a uniform error of one step.
    """
    implied = lb_step(decimals, prior) ** 2 / 2
    if repeats.sd is None:
        return implied
    measured = max(repeats.sd**2, (10.0**-decimals) ** 2 / 12)
    return (PRIOR_DOF * implied + repeats.dof * measured) / (PRIOR_DOF + repeats.dof)


def lb_noise(decimals: int, repeats: SeedBand, prior: float) -> float:
    """The difference of two leaderboard scores that chance explains (1 sd), at least `lb_step`."""
    measured = math.sqrt(2 * lb_variance(decimals, repeats, prior))
    return max(lb_step(decimals, prior), measured)
