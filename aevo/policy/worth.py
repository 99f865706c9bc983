"""What the choice of the next round's trials rests on, and what is known of each move."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from aevo.policy import trials as ledger
from aevo.policy.own import axes_with, knobs_with
from aevo.records.evidence import Evidence
from aevo.records.policy import DeadEnd, MoveRef, Policy, SearchMode, StandingChange, Trial
from aevo.statistics.effect import Estimate, combined, expected, spread, value_of_trial
from aevo.substrate.catalogue import Axis, Catalogue, own_from, stands

SIBLING_WEIGHT = 2  # how many moves the spread over all axes counts for within one axis
CENTRE_WEIGHT = 4  # trials of no gain that every category is thought to have had


@dataclass(frozen=True)
class Situation:
    """All that the choice of axes rests on: evidence, the policy it came from, and what is next."""

    evidence: Evidence
    policy: Policy
    catalogue: Catalogue
    mode: SearchMode
    standing: Sequence[StandingChange]
    dead_ends: Sequence[DeadEnd]
    tried: Sequence[Trial]
    leveraged: str | None = None

    @property
    def round(self) -> int:
        """The round that axes are chosen for."""
        return self.evidence.round + 1

    def trials(self, axis: Axis) -> dict[str, Trial]:
        """The latest trial of each move of an axis."""
        return {trial.move: trial for trial in self.tried if trial.axis == axis.id}

    def open_moves(self, axis: Axis) -> list[str]:
        """Moves neither dead nor standing, the one whose trial is worth most first."""
        key = axis.id, len(axis.moves)  # with what was measured besides, or without
        if key not in self.opened:
            self.opened[key] = self._open_moves(axis)
        return list(self.opened[key])

    @cached_property
    def offers(self) -> list[Axis]:
        """The axes to choose from: the catalogue's, and changes that no catalogue has, where one
        more trial of them is worth most on their axis. Such an axis has their files as knobs."""
        found = []
        for axis in axes_with(self.catalogue, self.tried):
            plain = self.catalogue.axis(axis.id)
            best = next((axis.move(name) for name in self.assigned(axis)[:1]), None)
            if best is not None and best.source is not None:
                knobs = knobs_with(axis.knobs, [own_from(best)])
                found.append(axis.model_copy(update={"knobs": knobs}))
            elif plain is not None:
                found.append(plain)
        return found

    @property
    def plain(self) -> list[Axis]:
        """The catalogue's axes that are offered with a measured change: without it."""
        offered = {axis.id: axis for axis in self.offers}
        return [axis for axis in self.catalogue.axes if offered.get(axis.id, axis) is not axis]

    @cached_property
    def places(self) -> dict[str, int]:
        """Every axis's place in the catalogue."""
        return {axis.id: index for index, axis in enumerate(self.catalogue.axes)}

    @cached_property
    def opened(self) -> dict[tuple[str, int], list[str]]:
        """Open moves by axis, as far as they were asked for."""
        return {}

    def _open_moves(self, axis: Axis) -> list[str]:
        dead = {item.move for item in self.dead_ends if item.axis == axis.id}
        trials = self.trials(axis)
        promoted = {name for name, t in trials.items() if t.outcome in ("promoted", "likely")}
        moves = [
            move.id
            for move in axis.moves
            if move.id not in dead | promoted and not stands(move, self.standing)
        ]
        return sorted(moves, key=lambda name: -self.value(axis, name))

    def known(self, axis: Axis, move: str) -> Estimate | None:
        """What earlier trials say of a move, by what the objective trusts, else by dev."""
        key = axis.id, move
        if key not in self.pooled:
            self.pooled[key] = self._known(axis, move)
        return self.pooled[key]

    @cached_property
    def pooled(self) -> dict[tuple[str, str], Estimate | None]:
        """What is known of moves, as far as it was asked for."""
        return {}

    def _known(self, axis: Axis, move: str) -> Estimate | None:
        ref = MoveRef(axis=axis.id, move=move)
        trusted = self.learned(ref, external=True) if self.mode == "transfer" else None
        return trusted or self.learned(ref, external=False)

    def learned(self, ref: MoveRef, external: bool) -> Estimate | None:
        """What a move's own trials say of it, and those of bundles that it was part of."""
        own = ledger.known(ledger.of_move(self.tried, ref.axis, ref.move), external)
        found = [own] if own else []
        for trial in self.tried:
            others = [p for p in trial.combines if (p.axis, p.move) != (ref.axis, ref.move)]
            if len(others) == len(trial.combines):
                continue
            whole = ledger.known([trial], external)
            if whole is not None:
                found.append(self._share(whole, others, external))
        return combined(found) if found else None

    def _share(self, whole: Estimate, others: Sequence[MoveRef], external: bool) -> Estimate:
        """What a bundle leaves to one of its moves: its gain less what its others promised."""
        gain, variance = whole.gain, whole.se**2
        for other in others:
            trials = ledger.of_move(self.tried, other.axis, other.move)
            mean, own = expected(ledger.known(trials, external), self.evidence.calibration.spread)
            gain, variance = gain - mean, variance + own
        return Estimate(gain, math.sqrt(variance))

    def value(self, axis: Axis, move: str) -> float:
        """Expected gain of the decision that one more trial of a move allows (accuracy).

        A move not tried is thought to be like the others: at the mean of its category, shrunk
        towards no gain, and as far from it as its axis's moves turned out to be. Where a move of
        its axis stands, it would take that one's place and so first lose what that one gained.
        """
        found = self.evidence.calibration
        noise = found.lb_sd * math.sqrt(2)
        if self.mode != "transfer":
            noise = 1 / math.hypot(1 / noise, 1 / max(found.dev_band / 2, noise))
        known = self.known(axis, move)
        likely = found.spread
        if known is None:
            siblings = [self.known(axis, other.id) for other in axis.moves]
            seen = [item for item in siblings if item is not None]
            likely = spread(seen, found.spread, SIBLING_WEIGHT)
        centre = self.centres.get(axis.category, 0.0) - self.at_stake(axis)
        return value_of_trial(known, noise, likely, centre)

    def at_stake(self, axis: Axis) -> float:
        """What the axis's standing moves gained when they were promoted."""
        known = [
            self.known(axis, ref.move)
            for item in self.standing
            for ref in ledger.moves_of(self.tried, item.provenance.round, item.provenance.candidate)
            if ref.axis == axis.id
        ]
        return max((item.gain for item in known if item), default=0.0)

    @cached_property
    def centres(self) -> dict[str, float]:
        """Mean gain of each category over all trials, shrunk towards 0."""
        category = {axis.id: axis.category for axis in self.catalogue.axes}
        gains: dict[str, list[float]] = {}
        for trial in self.tried:
            gain = trial.lb_gain if self.mode == "transfer" else trial.gain
            if gain is not None and trial.axis in category:
                # one collapse says little of its category's other moves
                bounded = max(gain, -2 * self.evidence.calibration.dev_band)
                gains.setdefault(category[trial.axis], []).append(bounded)
        return {name: sum(v) / (len(v) + CENTRE_WEIGHT) for name, v in gains.items()}

    def assigned(self, axis: Axis) -> list[str]:
        """The open moves worth this round's trial: the fresh ones, or the one whose replication is
        worth more than any of them."""
        trials, moves = self.trials(axis), self.open_moves(axis)
        if moves and moves[0] in trials:
            return moves[:1]
        return [name for name in moves if name not in trials]
