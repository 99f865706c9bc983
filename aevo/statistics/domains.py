"""Which domain's dev gains reach the leaderboard, over all rounds of a campaign.

The leaderboard shows one number. But explorers differ in which domains they lift, so regressing
their leaderboard gains on what each domain added to their dev gains tells how much of each domain's
gains is passed on: a proxy may mislead in one domain while others carry the score.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aevo.statistics.noise import EPSILON

PRIOR_SHARE = 1.0  # what a sound proxy passes on
PRIOR_SD = 1.0  # its mixture of domains may differ from dev's, either way


@dataclass(frozen=True)
class DomainProbe:
    """A submitted explorer's leaderboard gain, and what each domain added to its dev gain."""

    round: int
    domains: Mapping[str, float]
    lb: float


@dataclass(frozen=True)
class DomainShare:
    """How much of the dev gains won in a domain reached the leaderboard: posterior mean and
    standard deviation."""

    domain: str
    share: float
    se: float

    def below(self, bound: float) -> float:
        """Standard deviations by which the share lies below `bound`."""
        return (bound - self.share) / self.se


def leading_share(
    probes: Sequence[DomainProbe],
    everyone: Sequence[Mapping[str, float]],
    noise: Mapping[str, float],
    own: float,
    shared: float,
) -> DomainShare | None:
    """The share of the domain that most of the probes' expected dev gains come from; None if no
    domain rose.

    Explorers are submitted because their dev is high, so what each domain added is shrunk to what
    is expected of its true part, by how far the parts of all explorers (`everyone`, submitted or
    not) are noise. Shares have the prior N(1, 1).

    Args:
        noise: variance that chance gives a domain's part of a dev gain.
        own: variance of a leaderboard gain that is the explorer's own.
        shared: variance that the gains of one round have in common, through the anchor.
    """
    names = sorted(noise)
    if not probes or not names:
        return None
    chance = np.array([noise[name] for name in names])
    seen = np.array([[item.get(name, 0.0) for name in names] for item in everyone])
    true = np.maximum((seen**2).mean(axis=0) - chance, EPSILON)
    trust = true / (true + chance)
    parts = np.array([[probe.domains.get(name, 0.0) for name in names] for probe in probes]) * trust
    risen = np.maximum(parts, 0.0).sum(axis=0)
    top = int(risen.argmax())
    if risen[top] <= EPSILON:
        return None
    rounds = np.array([probe.round for probe in probes])
    scatter = np.eye(len(probes)) * (own + float((true * (1 - trust)).sum()))
    scatter += shared * (rounds[:, None] == rounds[None, :])
    weighted = np.linalg.solve(scatter, parts)
    precision = parts.T @ weighted + np.eye(len(names)) / PRIOR_SD**2
    lb = np.array([probe.lb for probe in probes])
    mean = np.linalg.solve(precision, weighted.T @ lb + PRIOR_SHARE / PRIOR_SD**2)
    variance = float(np.linalg.inv(precision)[top, top])
    return DomainShare(names[top], float(mean[top]), math.sqrt(variance))
