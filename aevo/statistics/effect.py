"""What a change is worth: its readings on dev and on the leaderboard, in one estimate.

Each reading is a gain over the anchor with a standard error. They are pooled by precision, so a
dear but exact leaderboard score counts for what it is worth, and a second trial of a change adds to
the first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from aevo.statistics.paired import above_zero, t_quantile

Z95 = 1.959964
ODDS = 2.0  # standard errors between two readings of one gain beyond which they contradict


@dataclass(frozen=True)
class Reading:
    """One measured gain. `se` is its whole standard error; `shared` the part of it that another
    trial on the same items would repeat, and that replication therefore does not average away."""

    gain: float
    se: float
    shared: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """A pooled gain: 95 % interval, and the one-sided p that it is not above zero. Both are
    by Student's t where `dof` degrees of freedom are all that the standard error rests on."""

    gain: float
    se: float
    trials: int = 1
    dof: float = math.inf

    @property
    def reach(self) -> float:
        """Half of the width of the 95 % interval."""
        return self.se * (Z95 if math.isinf(self.dof) else t_quantile(self.dof, 0.975))

    @property
    def low(self) -> float:
        return self.gain - self.reach

    @property
    def high(self) -> float:
        return self.gain + self.reach

    @property
    def p(self) -> float:
        return above_zero(self.gain, self.se, self.dof)


def replicated(readings: Sequence[Reading]) -> Reading | None:
    """Trials of one change on the same items: their mean, with what they share left whole."""
    if not readings:
        return None
    count = len(readings)
    own = sum(max(0.0, item.se**2 - item.shared**2) for item in readings) / count
    shared = sum(item.shared**2 for item in readings) / count
    gain = sum(item.gain for item in readings) / count
    return Reading(gain, math.sqrt(own / count + shared), math.sqrt(shared))


def pool(sources: Sequence[Sequence[Reading]]) -> Estimate | None:
    """One estimate from several sources (dev, leaderboard), each with its trials; None if there is
    no reading at all."""
    found = [item for item in map(replicated, sources) if item is not None]
    if not found:
        return None
    whole = combined([Estimate(item.gain, item.se) for item in found])
    return replace(whole, trials=max(len(source) for source in sources))


def combined(estimates: Sequence[Estimate]) -> Estimate:
    """Independent estimates of one gain, at least one of them, by precision."""
    weights = [1 / max(item.se, 1e-6) ** 2 for item in estimates]
    gain = sum(w * item.gain for w, item in zip(weights, estimates, strict=True)) / sum(weights)
    return Estimate(gain, math.sqrt(1 / sum(weights)), sum(item.trials for item in estimates))


def expected(known: Estimate | None, spread: float, centre: float = 0.0) -> tuple[float, float]:
    """Mean and variance of a true gain, given what is known of it and that the true gains of
    changes lie around `centre` with standard deviation `spread`: the best of many flatters."""
    if known is None:
        return centre, spread**2
    own = max(known.se, 1e-6) ** 2
    trust = spread**2 / (spread**2 + own)
    return centre + trust * (known.gain - centre), trust * own


def at_odds(one: Sequence[Reading], other: Sequence[Reading]) -> bool:
    """True if two sources contradict each other beyond chance, so that their mean says nothing."""
    first, second = replicated(one), replicated(other)
    if first is None or second is None:
        return False
    return abs(first.gain - second.gain) > ODDS * math.hypot(first.se, second.se)


def spread(estimates: Sequence[Estimate], prior: float, prior_weight: float = 4.0) -> float:
    """Standard deviation of true effects among changes tried (empirical Bayes, by moments).

    The prior counts as `prior_weight` changes; single large losses do not widen it without bound.
    """
    squares = prior_weight * prior**2
    for item in estimates:
        squares += min(item.gain**2, (3 * prior) ** 2) - item.se**2
    return math.sqrt(max(squares / (prior_weight + len(estimates)), (prior / 2) ** 2))


def value_of_trial(
    known: Estimate | None, noise: float, spread: float, centre: float = 0.0
) -> float:
    """Expected gain of the decision that one more trial allows: E[max(0, posterior mean after it)].

    `known` is what earlier trials say (None: nothing), `noise` the standard error of one trial,
    `spread` and `centre` describe true effects of changes not tried. A knowledge gradient (Frazier,
    Powell and Dayanik 2008) against the choice of leaving the recipe as it is.
    """
    mean, variance = expected(known, spread, centre)
    moves = variance / math.sqrt(variance + noise**2)
    ratio = mean / moves
    density = math.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi)
    return moves * density + mean * (1 - above_zero(ratio, 1.0))
