"""How much the choice among several noisy scores flatters the one that is chosen.

Of `k` equally good checkpoints the best looks better than it is by the expected maximum of `k`
errors. Where an explorer chooses among as many as its anchor, both are flattered alike; where it
chooses among more (a run may leave up to 64), copies of one adapter with a little noise would look
like a gain.
"""

import itertools
import math
from collections.abc import Sequence


def expected_best(count: int) -> float:
    """Expected maximum of `count` independent standard normal values (Blom 1958, off by less than
    0.03); 0 for one or none."""
    if count < 2:
        return 0.0
    from scipy.special import ndtri

    return float(ndtri((count - 0.375) / (count + 0.25)))


def scatter(scores: Sequence[float]) -> float:
    """Standard deviation of the error of single scores, from how much neighbours differ (von
    Neumann 1941), so that a course of training that rises slowly is not taken for noise."""
    if len(scores) < 2:
        return 0.0
    steps = [(after - before) ** 2 for before, after in itertools.pairwise(scores)]
    return math.sqrt(sum(steps) / len(steps) / 2)


def flattery(own: Sequence[float], others: Sequence[Sequence[float]]) -> float:
    """What choosing the best of `own` scores flatters it by beyond what the same does for the mean
    of others (each the scores that one of them was chosen among); never below 0, and 0 where `own`
    are no more than the others have.

    Args:
        own: scores of the checkpoints of one run, in the order of training (accuracies, 0..1).
        others: the same of the runs that it is compared with.
    """
    if not others or len(own) <= max(map(len, others)):
        return 0.0
    theirs = sum(expected_best(len(one)) * scatter(one) for one in others) / len(others)
    return max(0.0, expected_best(len(own)) * scatter(own) - theirs)
