"""A bundle: one candidate that tries the likely gains of several axes together (the paper's
stack-and-calibrate; records call it a stack).

Gains that no single trial can tell from chance may be plain as a sum: three moves thought to add
half a point each cost three replications, or one trial whose effect is three times as large.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from aevo.policy.worth import Situation
from aevo.records.policy import AxisBrief, MoveRef
from aevo.statistics.effect import expected
from aevo.statistics.figures import signed
from aevo.substrate.catalogue import Axis, Catalogue, conflict, together, touches

STACK = "stack"  # id and category of the axis


@dataclass(frozen=True)
class _Likely:
    axis: Axis
    move: str
    gain: float  # expected, given what is known of it


def bundle(situation: Situation, resting: Collection[str]) -> AxisBrief | None:
    """The next round's bundle: the moves of highest expected gain, one an axis, that touch nothing
    in common; None where fewer than two are likely gains. One that was tried and gained nothing is
    not tried again, but may be without its least likely move.

    While dev misleads, only the leaderboard's word makes a move likely.
    """
    chosen: list[_Likely] = []
    for item in _likely(situation, resting):
        move = item.axis.move(item.move)
        if move is None or len(chosen) == situation.policy.stack_up_to:
            continue
        others = [m for other in chosen if (m := other.axis.move(other.move))]
        if not any(conflict(move.change, other.change) for other in others):
            chosen.append(item)
    while _refuted(chosen, situation):
        chosen.pop()  # the least likely of them
    if len(chosen) < 2:
        return None
    refs = sorted(map(_ref, chosen), key=lambda ref: ref.axis)  # one bundle, one name
    gain = signed(sum(item.gain for item in chosen), 4)
    brief = brief_for(refs, situation.catalogue, "each is likely to help and undecided alone")
    return brief.model_copy(update={"figure": f"they promise {gain} together"})


def brief_for(
    refs: Sequence[MoveRef], catalogue: Catalogue, reason: str, name: str = STACK
) -> AxisBrief:
    """The brief of a bundle of moves that the catalogue has."""
    moves = catalogue.moves(refs) or []
    words = [
        f"{ref.axis}/{ref.move}" + (f" ({move.why})" if move.why else "")
        for ref, move in zip(refs, moves, strict=True)
    ]
    return AxisBrief(
        axis=name,
        category=STACK,
        combines=list(refs),
        knobs=touches(together(moves).change),
        brief="Several moves together, each likely to help and too small to be sure of alone: "
        f"{'; '.join(words)}.",
        reason=reason,
    )


def _ref(item: _Likely) -> MoveRef:
    return MoveRef(axis=item.axis.id, move=item.move)


def _refuted(chosen: Sequence[_Likely], situation: Situation) -> bool:
    """True if exactly these moves were tried together and gained nothing."""
    keys = {(item.axis.id, item.move) for item in chosen}
    return any(
        keys == {(part.axis, part.move) for part in trial.combines}
        and (trial.outcome == "dead_end" or (trial.gain is not None and trial.gain <= 0))
        for trial in situation.tried
        if trial.combines
    )


def _likely(situation: Situation, resting: Collection[str]) -> Sequence[_Likely]:
    """Every axis's open move of highest expected gain, if that is a gain; the highest first."""
    spread = situation.evidence.calibration.spread
    external = situation.mode == "transfer"
    found = []
    for axis in situation.catalogue.axes:
        if axis.category in resting:
            continue
        moves = []
        for name in situation.open_moves(axis):
            known = situation.learned(MoveRef(axis=axis.id, move=name), external)
            if known is not None:
                gain = expected(known, spread)[0] - situation.at_stake(axis)
                moves.append(_Likely(axis, name, gain))
        best = max(moves, key=lambda item: item.gain, default=None)
        if best is not None and best.gain > 0:
            found.append(best)
    return sorted(found, key=lambda item: -item.gain)
