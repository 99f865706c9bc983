"""Which moves the next round tries, and which of them together: the value of information under the
posterior.

A round tells most if the best of its candidates may be far above the anchor. Of several candidates
whose gains are known but for normal errors, the best lies about `AIM` standard deviations above the
expectation of one; so every candidate is made of the moves for which expectation and `AIM` times
what a trial may move it are largest together. A move that was never tried costs what its like
usually cost, and adds its whole spread; the more moves a candidate has, the less one more adds, so
that candidates of few moves come out where most moves harm, and single probes where nothing else is
worth a place. No knob is touched by two candidates.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from aevo.policy.posterior import Posterior, posterior, trust
from aevo.policy.worth import Situation
from aevo.records.policy import MoveRef, Objective
from aevo.statistics.figures import signed
from aevo.substrate.catalogue import Axis, Catalogue, Move, conflict, shared_knobs

AIM = 1.35  # expected maximum of seven standard normal values
REASON = "the most to gain and to learn of what is left"
LEAST = 1e-5  # of accuracy: less is no reason for a move more
WELCOME = 0.5  # spreads that a move of a transfer axis counts for more while dev misleads


@dataclass(frozen=True)
class Option:
    """An open move: what the posterior expects of it is that of `row`, plus `credit`."""

    axis: Axis
    move: Move
    row: int
    credit: float


@dataclass(frozen=True)
class Design:
    """One candidate's moves, of different axes, with what they are expected to gain together."""

    options: tuple[Option, ...]
    gain: float
    se: float

    @property
    def refs(self) -> list[MoveRef]:
        """The moves, in an order that does not depend on their worth: one bundle, one name."""
        found = [MoveRef(axis=one.axis.id, move=one.move.id) for one in self.options]
        return sorted(found, key=lambda ref: ref.axis)

    @property
    def knobs(self) -> list[str]:
        return [knob for one in self.options for knob in one.axis.knobs]

    @property
    def figure(self) -> str:
        """What the choice rests on; no worker reads it."""
        return f"{signed(self.gain, 4)} ± {self.se:.4f} expected"


def designs(situation: Situation, count: int, resting: Collection[str]) -> list[Design]:
    """Up to `count` candidates for the next round, the most promising first; fewer where moves run
    out. None combines more moves than the policy allows, or moves that touch something in common;
    those that exactly repeat a bundle that gained nothing are left out by their least promising
    move."""
    believed = posterior(
        situation.tried,
        trust(situation.evidence.calibration, _objective(situation)),
        _all_moves(situation.catalogue),
    )
    left = _options(situation, believed, resting)
    noise = _noise(situation)
    made: list[Design] = []
    while len(made) < count and left:
        found = _best(left, believed, noise, max(1, situation.policy.stack_up_to))
        while _refuted(found, situation):
            found = found[:-1]
        made.append(_design(found, believed))
        taken = made[-1].knobs
        left = [one for one in left if not shared_knobs(one.axis.knobs, taken)]
    return made


def _all_moves(catalogue: Catalogue) -> list[MoveRef]:
    return [MoveRef(axis=axis.id, move=move.id) for axis in catalogue.axes for move in axis.moves]


def _options(situation: Situation, believed: Posterior, resting: Collection[str]) -> list[Option]:
    """Every open move. One of an axis that stands would take that one's place, and so first lose
    what that one gained."""
    welcome = WELCOME * believed.spread if situation.mode == "transfer" else 0.0
    return [
        Option(
            axis,
            move,
            believed.moves[axis.id, name],
            (welcome if axis.transfer else 0.0) - situation.at_stake(axis),
        )
        for axis in situation.catalogue.axes
        if axis.category not in resting
        for name in situation.open_moves(axis)
        if (move := axis.move(name)) is not None
    ]


def _noise(situation: Situation) -> float:
    """Standard error of a candidate's gain as a trial will tell it."""
    found = situation.evidence.calibration
    one = found.lb_sd * math.sqrt(1.5)  # against the mean of an anchor's two
    return one if situation.mode == "transfer" else one / math.sqrt(1.5)


def _best(
    left: Sequence[Option], believed: Posterior, noise: float, most: int
) -> tuple[Option, ...]:
    """Grown by one move after the other, as long as each raises what the best may reach."""
    chosen: list[Option] = []
    fitting = list(left)
    reached, gain, variance = -math.inf, 0.0, 0.0
    mean, own = believed.mean.tolist(), believed.covariance.diagonal().tolist()
    towards = np.zeros(len(believed.mean))  # covariance of every move with those chosen
    while len(chosen) < most:
        best: tuple[float, Option] | None = None
        shared = towards.tolist()
        for one in fitting:
            whole = max(0.0, variance + 2 * shared[one.row] + own[one.row])
            moved = whole / math.sqrt(whole + noise**2) if whole else 0.0
            value = gain + mean[one.row] + one.credit + AIM * moved
            if best is None or value > best[0]:
                best = value, one
        if best is None or best[0] <= reached + LEAST:
            break
        reached, one = best
        chosen.append(one)
        fitting = [other for other in fitting if not _clash(one, other)]
        gain += mean[one.row] + one.credit
        variance += 2 * shared[one.row] + own[one.row]
        towards = towards + believed.covariance[one.row]
    return tuple(chosen)


def _clash(one: Option, other: Option) -> bool:
    return bool(
        shared_knobs(one.axis.knobs, other.axis.knobs)
        or conflict(one.move.change, other.move.change)
    )


def _design(chosen: Sequence[Option], believed: Posterior) -> Design:
    found = believed.of([MoveRef(axis=one.axis.id, move=one.move.id) for one in chosen])
    return Design(tuple(chosen), found.gain, found.se)


def _refuted(chosen: Sequence[Option], situation: Situation) -> bool:
    """True if exactly these moves were tried together and gained nothing."""
    keys = {(one.axis.id, one.move.id) for one in chosen}
    return len(keys) > 1 and any(
        keys == {(part.axis, part.move) for part in trial.combines}
        and (trial.outcome == "dead_end" or (trial.gain is not None and trial.gain <= 0))
        for trial in situation.tried
        if trial.combines
    )


def _objective(situation: Situation) -> Objective:
    return "maximise_transfer" if situation.mode == "transfer" else "maximise_dev"
