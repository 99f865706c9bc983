"""Does dev still predict the leaderboard: calibration, divergence, plateau (paper section 4)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from aevo.statistics.domains import DomainShare
from aevo.statistics.noise import EPSILON

GROSS = 1.7  # tolerances (2 sd each) beyond which one record alone decides
FAILED = 3.3  # standard errors below full transfer at which it is refuted
DOUBTED = 1.96
MIXTURE = 0.5  # of the spread: how far a sound proxy's gain may differ from the target's
LOST = 1.55  # the same below half transfer of the leading domain's gains
HALF = 0.5  # LB gain per true dev gain; a proxy that passes on less misleads

Verdict = Literal["evidence", "suspect", "not_evidence"]


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

    def residual(self, gain: Gain) -> float | None:
        """What the candidate's LB gain lies above what its dev gain predicts."""
        return None if self.slope is None else gain.lb - self.slope * gain.dev


def calibrate(observed: Sequence[Gain]) -> Slope:
    """Least squares through the origin (no dev gain, no LB gain) with Student's t interval.

    All is None below three gains, or where dev does not vary.
    """
    dev = np.array([gain.dev for gain in observed])
    lb = np.array([gain.lb for gain in observed])
    if len(observed) < 3 or float(dev @ dev) < EPSILON or np.ptp(dev) < EPSILON:
        return Slope()
    from scipy.special import stdtrit

    slope = float(dev @ lb / (dev @ dev))
    residual = lb - slope * dev
    dof = len(observed) - 1
    error = math.sqrt(float(residual @ residual) / dof / float(dev @ dev))
    reach = float(stdtrit(dof, 0.975)) * error
    return Slope(slope, slope - reach, slope + reach, _spearman(dev, lb))


def _spearman(dev: np.ndarray, lb: np.ndarray) -> float | None:
    if np.ptp(lb) < EPSILON:
        return None
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(dev), rankdata(lb))[0, 1])


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
class Probe:
    """A submitted explorer of this round, as a test of transfer: gains with standard errors.
    `moves` is how many changes it makes together, whose true gains add up."""

    candidate: str
    dev: float
    dev_se: float
    lb: float
    moves: int = 1


@dataclass(frozen=True)
class Passage:
    """How much of the true dev gains the leaderboard passed on: 1 if dev is perfect evidence."""

    share: float
    se: float
    probes: int

    @property
    def z(self) -> float:
        """Standard errors from full transfer; negative where the leaderboard falls short."""
        return (self.share - 1) / self.se


def passage(
    probes: Sequence[Probe],
    everyone: Sequence[float],
    spread: float,
    lb_variance: float,
    shared: float | None = None,
) -> Passage | None:
    """The share of dev's gains that reached the leaderboard, over explorers whose dev rose.

    Explorers are submitted *because* their dev is high, so their dev gains flatter. Each is
    therefore shrunk to what is expected of the true gain given the measured one, which holds
    whatever chose it: towards the mean of all of the round's explorers (`everyone`: their dev
    gains a move, submitted or not; `spread`: standard deviation of true gains), and that mean
    towards no gain, because the anchor's luck moves it. Given that, LB gains scatter by the rest of
    the spread, by what a sound proxy's domains weigh differently (`MIXTURE`), by their own noise
    (`lb_variance` of one score), and together by the anchor's (`shared`, of its mean; by default
    one score's); generalised least squares through the origin takes all of these into account. None
    if no dev rose.
    """
    rising = [probe for probe in probes if probe.dev > EPSILON]
    if not rising:
        return None
    dev, lb = np.array([p.dev for p in rising]), np.array([p.lb for p in rising])
    noise = np.array([probe.dev_se**2 for probe in rising])
    true = spread**2 * np.array([probe.moves for probe in rising])
    middle = float(np.clip(everyone, -2 * spread, 2 * spread).mean()) if everyone else 0.0
    held = spread**2 / (spread**2 + float(noise.mean()))  # of the mean; half the noise is shared
    trust = true / (true + noise)
    together = np.array([probe.moves for probe in rising])
    expected = trust * (dev - together * middle) + held * together * middle
    rising_on = expected > EPSILON
    if not rising_on.any():
        return None
    expected, trust, lb = expected[rising_on], trust[rising_on], lb[rising_on]
    own = true[rising_on] * (1 - trust + MIXTURE**2) + lb_variance
    scatter = np.diag(own) + (lb_variance if shared is None else shared)
    weights = np.linalg.solve(scatter, expected)
    information = float(weights @ expected)
    if information < EPSILON:
        return None
    return Passage(float(weights @ lb) / information, 1 / math.sqrt(information), len(lb))


@dataclass(frozen=True)
class Divergence:
    """Whether dev is still evidence of the leaderboard, and why."""

    verdict: Verdict
    reason: str


def divergence(
    bests: Sequence[RoundBest],
    noise: Noise,
    passed: Passage | None = None,
    source: DomainShare | None = None,
) -> Divergence:
    """Judges dev by the record dev so far, by what this round's explorers passed on, and by what
    all rounds' explorers passed on in the domain that dev's gains come from (`source`).

    Dev is not evidence if the leaderboard stayed within its noise while the record of dev rose
    grossly beyond its own, or if this round's explorers refute that dev's gains are passed on and
    less than half of them was, or if all rounds' refute that half of the leading domain's are.
    Weaker signs of the same kind make dev suspect. The record is
    compared with the earlier round that contradicts it most, so that a slow drift adds up and a
    verdict stays until a new record is confirmed.
    """
    record, base = _record(bests, noise)
    words, shortfall = [], 0.0
    if record and base:
        dev_gain, lb_gain = record.dev - base.dev, record.lb - base.lb
        shortfall = dev_gain - lb_gain if _unconfirmed(dev_gain, lb_gain, noise) else 0.0
        words.append(
            f"best dev rose {dev_gain:+.3f} from round {base.round} to {record.round} while best "
            f"LB moved {lb_gain:+.3f}"
        )
    z = 0.0
    if passed is not None:
        words.append(
            f"the leaderboard passed on {passed.share:+.2f} of the dev gains of this round's "
            f"{passed.probes} rising explorers (standard error {passed.se:.2f})"
        )
        z = passed.z if passed.share < HALF else 0.0
    lost = False
    if source is not None:
        words.append(
            f"over all rounds it passed on {source.share:+.2f} of what {source.domain} added to "
            f"dev (standard error {source.se:.2f})"
        )
        lost = source.below(HALF) > LOST
    verdict: Verdict = "evidence"
    if shortfall > GROSS * noise.tolerance + EPSILON or z < -FAILED or lost:
        verdict = "not_evidence"
    elif shortfall > 0 or z < -DOUBTED:
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
