"""What a campaign believes of every move: one joint posterior of their gains on the target.

Every trial of the ledger is one equation: what it gained over its round's anchor is the sum of its
moves' gains (one, or those of a bundle), and noise. Of that noise the anchor's part is common to
all trials of the round, and the items' part repeats where a change is tried again. Gains of moves
are N(centre, spread) beforehand, with a centre that the trials tell (most moves harm), so that the
best of many is shrunk for its luck, and a bundle speaks for each of its parts as far as the others
do not explain it. Linear and normal, in closed form.

Beliefs say what is *likely* and decide what forks start from; what is *claimed* has passed the test
of `aevo.policy.promotion.earned`.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aevo.policy import trials as ledger
from aevo.policy.mode import misleading_domain
from aevo.records.evidence import Calibration
from aevo.records.policy import MoveBelief, MoveRef, Objective, StandingChange, Trial
from aevo.statistics.effect import Estimate, Reading, at_odds, pool
from aevo.statistics.figures import figure

ANCHOR = 1 / 3  # of a gain's variance: the mean of an anchor's two runs, against one explorer's
CENTRE = 0.7  # how far from none the mean of a catalogue's gains may lie, in spreads
MIXTURE = (
    0.3  # of the spread: how far even shares of dev's domains miss what a move does to the target
)
LIKELY = 1.5  # posterior standard deviations above no gain from which a move may be built upon

Key = tuple[str, str]


@dataclass(frozen=True)
class Trust:
    """What dev is taken for. `spread`: standard deviation of true gains among the changes tried.
    `external`: dev as a whole is no evidence; then only what its domains but `misleading` gained
    counts, and where no domain is known to mislead, the leaderboard alone."""

    spread: float
    external: bool = False
    misleading: str | None = None

    def dev(self, trial: Trial) -> list[Reading]:
        """The trial's reading of the target on dev; none where dev says nothing of it."""
        if self.external and self.misleading is None:
            return []
        away = {self.misleading} if self.external else set()
        kept = [one for name, one in trial.domains.items() if name not in away]
        if not kept:
            return [] if self.external else ledger.dev_readings([trial])
        moves = len(ledger.parts(trial))
        unlike = MIXTURE * self.spread * math.sqrt(moves * len(trial.domains) / len(kept))
        gain = sum(one.gain for one in kept) / len(kept)
        error = math.sqrt(sum(one.se**2 for one in kept)) / len(kept)
        shared = math.sqrt(sum(one.shared**2 for one in kept)) / len(kept)
        return [Reading(gain, math.hypot(error, unlike), math.hypot(shared, unlike))]


def trust(found: Calibration, objective: Objective) -> Trust:
    """What a round's evidence makes of dev under an objective."""
    external = objective == "maximise_transfer" or found.verdict != "evidence"
    return Trust(found.spread, external, misleading_domain(found) if external else None)


@dataclass(frozen=True)
class Posterior:
    """Means and covariance of the gains of `moves` on the target (accuracy, 0..1)."""

    moves: Mapping[Key, int]
    mean: np.ndarray
    covariance: np.ndarray
    spread: float

    def of(self, parts: Collection[MoveRef]) -> Estimate:
        """The gain of these moves together; one that was never tried is at the prior."""
        rows = [row for part in parts if (row := self.moves.get(_key(part))) is not None]
        unknown = len(parts) - len(rows)
        variance = float(self.covariance[np.ix_(rows, rows)].sum())
        variance += unknown * (1 + CENTRE**2) * self.spread**2
        return Estimate(float(self.mean[rows].sum()), math.sqrt(max(variance, 0.0)))


def posterior(tried: Sequence[Trial], trust: Trust, fresh: Collection[MoveRef] = ()) -> Posterior:
    """The posterior after these trials; `fresh` are further moves to have a belief of, which trials
    of others alone tell."""
    known = [
        (trial, found)
        for trial in tried
        if trial.change_sha256 and (found := _measured(trial, trust))
    ]
    spread = trust.spread
    keys = dict.fromkeys(_key(part) for trial, _ in known for part in ledger.parts(trial))
    keys |= dict.fromkeys(map(_key, fresh))
    moves = {key: row for row, key in enumerate(keys)}
    design = np.zeros((len(known), len(moves)))
    for row, (trial, _) in enumerate(known):
        design[row, [moves[_key(part)] for part in ledger.parts(trial)]] = 1.0
    prior = (np.eye(len(moves)) + CENTRE**2) * spread**2
    gains = np.array([found.gain for _, found in known])
    reach = design @ prior
    scatter = reach @ design.T + _noise(known, trust)
    held = np.linalg.solve(scatter, reach) if known else reach
    return Posterior(moves, held.T @ gains, prior - held.T @ reach, spread)


def likely(found: Estimate) -> bool:
    """True if a gain is likely enough to be built upon, though it may not be established."""
    return found.gain > LIKELY * found.se


def beliefs(
    tried: Sequence[Trial], standing: Sequence[StandingChange], trust: Trust
) -> list[MoveBelief]:
    """What the trials so far make of every move that was measured, the most promising first;
    established is what stands by a test."""
    established = {
        _key(part)
        for item in standing
        if item.established
        for part in ledger.moves_of(tried, item.provenance.round, item.provenance.candidate)
    }
    found = posterior(tried, trust)
    entries = []
    for axis, move in found.moves:
        one = found.of([MoveRef(axis=axis, move=move)])
        entries.append(
            MoveBelief(
                axis=axis,
                move=move,
                expected=figure(one.gain),
                sd=figure(one.se),
                probability=figure(1 - one.p),
                established=(axis, move) in established,
            )
        )
    return sorted(entries, key=lambda item: (-item.expected, item.axis, item.move))


def _measured(trial: Trial, trust: Trust) -> Estimate | None:
    """The trial's gain on the target; where dev and leaderboard contradict each other, dev is no
    reading of it."""
    dev, lb = trust.dev(trial), ledger.lb_readings([trial])
    return pool([[] if at_odds(dev, lb) else dev, lb])


def _noise(known: Sequence[tuple[Trial, Estimate]], trust: Trust) -> np.ndarray:
    """Covariance of the trials' errors: its own, the anchor's by round, the items' by change."""
    errors = np.array([found.se for _, found in known])
    rounds = np.array([trial.round for trial, _ in known])
    together = ANCHOR * np.outer(errors, errors) * (rounds[:, None] == rounds[None, :])
    changes = np.array([trial.change_sha256 for trial, _ in known])
    repeated = np.array([_repeated(trust.dev(trial), found) for trial, found in known])
    apart = rounds[:, None] != rounds[None, :]
    together += np.outer(repeated, repeated) * ((changes[:, None] == changes[None, :]) & apart)
    np.fill_diagonal(together, errors**2)
    return together


def _repeated(dev: Sequence[Reading], found: Estimate) -> float:
    """What another trial of the change on the same items would repeat of the error of its pooled
    gain: dev's shared part, by the weight that dev has in it."""
    return sum(one.shared * min(1.0, (found.se / one.se) ** 2) for one in dev if one.se)


def _key(part: MoveRef) -> Key:
    return part.axis, part.move
