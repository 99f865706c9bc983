"""Statistics of a round: pure functions of scores, without files or clocks.

All scores are accuracies in 0..1. Intervals are 95 %. Random numbers come from a fixed seed, so the
same inputs give the same figures on every machine.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

BOOTSTRAP_SEED = 20260601
BOOTSTRAP_DRAWS = 10_000
LB_NOISE_FLOOR = 0.01  # identical resubmissions move a public board this much (shared/CHALLENGE)
PRIOR_DOF = 2  # how many degrees of freedom the operator's prior threshold counts for
GROSS = 1.5  # tolerances (2 sd each) beyond which one record alone decides
EPSILON = 1e-9  # differences of scores rounded to two decimals are not exact in binary

Verdict = Literal["evidence", "suspect", "not_evidence"]


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
    common = sorted(anchor.keys() & explorer.keys())
    if not common:
        raise ValueError("no common items")
    n = len(common)
    won = sum(explorer[item] and not anchor[item] for item in common)
    lost = sum(anchor[item] and not explorer[item] for item in common)
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    shares = [won / n, lost / n, max(0.0, 1 - (won + lost) / n)]
    draws = generator.multinomial(n, shares, size=BOOTSTRAP_DRAWS)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / n, [0.025, 0.975])
    return Paired(n, won, lost, (won - lost) / n, float(low), float(high), mcnemar(won, lost))


def mcnemar(won: int, lost: int) -> float:
    """Exact two-sided p that as uneven a split of changed items is chance; 1 if none changed."""
    if won + lost == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(won, won + lost, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given (Holm 1979): family-wise error control."""
    order = sorted(range(len(p_values)), key=lambda index: (p_values[index], index))
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


@dataclass(frozen=True)
class SeedBand:
    """Spread of dev between seeds of one recipe; `sd` is None below one degree of freedom."""

    sd: float | None
    runs: int
    dof: int


def seed_band(groups: Mapping[str, Sequence[float]]) -> SeedBand:
    """Pools the variance of dev within groups of runs that share a recipe digest."""
    repeated = [values for values in groups.values() if len(values) > 1]
    runs = sum(len(values) for values in repeated)
    dof = runs - len(repeated)
    if dof < 1:
        return SeedBand(None, runs, 0)
    squares = sum(float(np.var(values)) * len(values) for values in repeated)
    return SeedBand(math.sqrt(squares / dof), runs, dof)


def difference_band(prior: float, seeds: SeedBand) -> float:
    """The difference between two runs that seeds alone explain: 2 sd of a difference, 2*sqrt(2)*sd.

    A standard deviation from two or three runs is hardly known, so it is pooled with the one that
    the operator's `prior` threshold implies, which counts for `PRIOR_DOF` degrees of freedom. The
    prior is also the floor: two runs that happen to agree do not make small gains real.
    """
    if seeds.sd is None:
        return prior
    implied = prior / (2 * math.sqrt(2))
    variance = (PRIOR_DOF * implied**2 + seeds.dof * seeds.sd**2) / (PRIOR_DOF + seeds.dof)
    return max(prior, 2 * math.sqrt(2 * variance))


def lb_noise(decimals: int) -> float:
    """The leaderboard move that is noise: 0.01, or one step of the rounding if that is coarser."""
    return max(LB_NOISE_FLOOR, 10.0**-decimals)


@dataclass(frozen=True)
class Point:
    """One submitted candidate."""

    round: int
    candidate: str
    anchor: bool
    dev: float
    lb: float


@dataclass(frozen=True)
class Gain:
    """A submitted explorer against the anchor of its round."""

    round: int
    candidate: str
    dev: float
    lb: float


def gains(points: Sequence[Point]) -> list[Gain]:
    """Gains over the anchor of the same round; a round whose anchor has no score gives none."""
    anchors = {point.round: point for point in points if point.anchor}
    return [
        Gain(p.round, p.candidate, p.dev - anchors[p.round].dev, p.lb - anchors[p.round].lb)
        for p in points
        if not p.anchor and p.round in anchors
    ]


@dataclass(frozen=True)
class Slope:
    """LB gain per dev gain with its interval, and Spearman's rank correlation of the gains."""

    slope: float | None = None
    low: float | None = None
    high: float | None = None
    rank_correlation: float | None = None


def calibrate(observed: Sequence[Gain]) -> Slope:
    """Least squares through the origin (no dev gain, no LB gain) with Student's t interval.

    All is None below three gains, or where dev does not vary.
    """
    dev = np.array([gain.dev for gain in observed])
    lb = np.array([gain.lb for gain in observed])
    if len(observed) < 3 or float(dev @ dev) < EPSILON or np.ptp(dev) < EPSILON:
        return Slope()
    from scipy.stats import spearmanr, t

    slope = float(dev @ lb / (dev @ dev))
    residual = lb - slope * dev
    dof = len(observed) - 1
    error = math.sqrt(float(residual @ residual) / dof / float(dev @ dev))
    reach = float(t.ppf(0.975, dof)) * error
    rho = float(spearmanr(dev, lb).statistic) if np.ptp(lb) > EPSILON else None
    return Slope(slope, slope - reach, slope + reach, rho)


@dataclass(frozen=True)
class Contribution:
    """A submitted explorer's gains, and what each domain added to its dev gain (they sum to it)."""

    dev: float
    lb: float
    domains: Mapping[str, float]


def leverage(probes: Sequence[Contribution]) -> dict[str, float]:
    """Per domain, the mean dev gain won there that the leaderboard did not confirm.

    What an explorer's dev gain exceeds its LB gain by is laid to the domains that rose, in
    proportion to what they added. Explorers whose dev did not rise say nothing here.
    """
    rising = [probe for probe in probes if probe.dev > 0]
    total: dict[str, float] = {}
    for probe in rising:
        unconfirmed = max(0.0, probe.dev - max(0.0, probe.lb))
        risen = {name: value for name, value in probe.domains.items() if value > 0}
        for name in probe.domains:
            share = risen.get(name, 0.0) / sum(risen.values()) if risen else 0.0
            total[name] = total.get(name, 0.0) + unconfirmed * share / len(rising)
    return total


@dataclass(frozen=True)
class RoundBest:
    """The best dev and the best LB of a round's submissions; round 0 is the substrate's recipe."""

    round: int
    dev: float
    lb: float


def round_bests(points: Sequence[Point]) -> list[RoundBest]:
    """One entry a round with submissions; the first round's anchor stands as round 0."""
    rounds = sorted({point.round for point in points})
    bests: list[RoundBest] = []
    for number in rounds:
        own = [point for point in points if point.round == number]
        start = [point for point in own if point.anchor]
        if not bests and start:
            bests.append(RoundBest(number - 1, start[0].dev, start[0].lb))
        bests.append(RoundBest(number, max(p.dev for p in own), max(p.lb for p in own)))
    return bests


def plateau(bests: Sequence[RoundBest], lb_threshold: float) -> int:
    """Rounds in a row, up to the last, that raised the best LB by less than `lb_threshold`."""
    count = 0
    for index in range(len(bests) - 1, 0, -1):
        before = max(best.lb for best in bests[:index])
        if bests[index].lb - before >= lb_threshold - EPSILON:
            break
        count += 1
    return count


@dataclass(frozen=True)
class Noise:
    """What chance explains: a dev difference up to `dev_band`, an LB difference up to `lb`."""

    dev_band: float
    lb: float

    @property
    def tolerance(self) -> float:
        """How far a dev gain and an LB gain may disagree by chance (2 sd).

        Seeds move both scores alike, and the leaderboard adds its own noise.
        """
        return math.hypot(self.dev_band, self.dev_band, self.lb)


@dataclass(frozen=True)
class Divergence:
    """Whether dev is still evidence of the leaderboard, and why."""

    verdict: Verdict
    reason: str


def divergence(bests: Sequence[RoundBest], probes: Sequence[Gain], noise: Noise) -> Divergence:
    """Judges dev by the record dev so far and by this round's submitted explorers (`probes`).

    dev is not evidence if the leaderboard stayed within its noise while dev rose beyond its own,
    and either the two disagree grossly (3 sd) or at least two explorers show it and more show it
    than contradict it. Weaker signs of the same kind make dev suspect. The record is compared with
    the earlier round that contradicts it most, so that a slow drift adds up and a verdict stays
    until a new record is confirmed.
    """
    failed = [probe for probe in probes if _unconfirmed(probe.dev, probe.lb, noise)]
    confirmed = [
        p for p in probes if p.dev > noise.dev_band + EPSILON and p.lb > noise.lb + EPSILON
    ]
    record, base = _record(bests, noise)
    words, shortfall = [], 0.0
    if record and base:
        dev_gain, lb_gain = record.dev - base.dev, record.lb - base.lb
        shortfall = dev_gain - lb_gain if _unconfirmed(dev_gain, lb_gain, noise) else 0.0
        words.append(
            f"best dev rose {dev_gain:+.3f} from round {base.round} to {record.round} while best "
            f"LB moved {lb_gain:+.3f}"
        )
    if probes:
        words.append(
            f"{len(failed)} of this round's {len(probes)} submitted explorers raised dev beyond "
            f"the band without the LB following, {len(confirmed)} with it"
        )
    verdict: Verdict = "evidence"
    several = len(failed) >= 2 and len(failed) > len(confirmed)
    if shortfall > GROSS * noise.tolerance + EPSILON or several:
        verdict = "not_evidence"
    elif shortfall > 0 or (failed and len(failed) >= len(confirmed)):
        verdict = "suspect"
    noise_words = f"noise: dev {noise.dev_band:.3f}, LB {noise.lb:.3f}"
    return Divergence(verdict, "; ".join([*(words or ["no submissions to judge by"]), noise_words]))


def _unconfirmed(dev: float, lb: float, noise: Noise) -> bool:
    return (
        dev > noise.dev_band + EPSILON
        and lb <= noise.lb + EPSILON
        and dev - lb > noise.tolerance + EPSILON
    )


def _record(bests: Sequence[RoundBest], noise: Noise) -> tuple[RoundBest | None, RoundBest | None]:
    """The round of the highest dev, and the earlier one that contradicts it most, else the one
    before it; None if there is no such pair."""
    if len(bests) < 2:
        return None, None
    record = max(bests, key=lambda best: (best.dev, best.round))
    earlier = [best for best in bests if best.round < record.round]
    if not earlier:
        return None, None

    def contradiction(base: RoundBest) -> tuple[bool, float]:
        dev, lb = record.dev - base.dev, record.lb - base.lb
        return (True, dev - lb) if _unconfirmed(dev, lb, noise) else (False, float(base.round))

    return record, max(earlier, key=contradiction)
