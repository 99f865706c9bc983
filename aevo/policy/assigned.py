"""The constitution's rules of the axes that a policy assigns (R12 to R16), as faults in words."""

from collections.abc import Sequence

from aevo.policy.case import Case
from aevo.policy.own import allotment_faults, knobs_with, own_faults
from aevo.policy.rotation import (
    active,
    can_rest,
    categories_of,
    rotation_due,
    used_categories,
    with_entrant,
)
from aevo.records.policy import AxisBrief
from aevo.substrate.catalogue import (
    Catalogue,
    categories_needed,
    conflict,
    move_from,
    shared_knobs,
    stands,
    together,
    touches,
)


def one_axis_per_explorer(case: Case) -> list[str]:
    """R12."""
    names = [axis.axis for axis in case.policy.axes]
    expected = len(case.evidence.candidates) - 1
    faults = [] if len(names) == expected else [f"{len(names)} axes for {expected} explorers"]
    return faults + [f"{name} is assigned twice" for name in repeated(names)]


def axes_are_orthogonal(case: Case) -> list[str]:
    """R13."""
    axes = case.policy.axes
    faults = [
        f"{one.axis} and {other.axis} share {', '.join(shared_knobs(one.knobs, other.knobs))}"
        for index, one in enumerate(axes)
        for other in axes[index + 1 :]
        if shared_knobs(one.knobs, other.knobs)
    ]
    needed = categories_needed(len(axes), case.history.catalogue)
    catalogue = case.history.catalogue
    spanned = len({name for axis in axes for name in _spanned(catalogue, axis)})
    if spanned < needed:
        faults.append(f"the axes span {spanned} categories, {needed} are needed")
    return faults


def _spanned(catalogue: Catalogue, brief: AxisBrief) -> set[str]:
    """The categories that count for an axis: of a stack those of its moves, else its own."""
    return categories_of(catalogue, brief) if brief.combines else {brief.category}


def categories_rotate_on_plateau(case: Case) -> list[str]:
    """R14."""
    if not rotation_due(case.evidence):
        return []
    catalogue, n_axes = case.history.catalogue, len(case.previous.axes)
    before = set(used_categories(catalogue, case.previous.axes))
    after = set(used_categories(catalogue, case.policy.axes))
    possible = [name for name in sorted(before) if can_rest(catalogue, name, n_axes)]
    faults = []
    if possible and before <= after:
        faults.append("the leaderboard has plateaued, yet no category of this round rests")
    rested = [axis for axis in catalogue.axes if axis.category not in before - after]
    needed = categories_needed(n_axes, catalogue)
    if possible and not after - before and with_entrant(rested, before, n_axes, needed):
        faults.append("the leaderboard has plateaued, yet no idle category comes in")
    return faults


def axes_are_the_catalogues(case: Case) -> list[str]:
    """R15."""
    faults = []
    if case.policy.stack_up_to != case.previous.stack_up_to:
        faults.append("how many moves a stack combines is the operator's choice")
    if case.policy.stacks_per_round != case.previous.stacks_per_round:
        faults.append("how many candidates may be stacks is the operator's choice")
    if case.policy.likely_per_round != case.previous.likely_per_round:
        faults.append("how many changes may enter that are only likely is the operator's choice")
    if case.policy.trainings != case.previous.trainings:
        faults.append("how many trainings an explorer may start is the operator's choice")
    faults += allotment_faults(case.policy.axes, case.previous.trainings)
    for brief in case.policy.axes:
        axis = case.history.catalogue.axis(brief.axis)
        faults += own_faults(brief, case.history.catalogue, case.policy.tried)
        if brief.combines:
            faults += _bundle_faults(brief, case)
        elif axis is None:
            if not brief.knobs:
                faults.append(
                    f"{brief.axis} is not in the catalogue and states no knobs of its own"
                )
            if brief.moves:
                faults.append(
                    f"{brief.axis} is not in the catalogue, so it has no moves there: leave out "
                    f"`moves` ({', '.join(brief.moves)})"
                )
        else:
            knobs = knobs_with(axis.knobs, [own for own in brief.own if own.source])
            if (axis.category, knobs) != (brief.category, brief.knobs):
                faults.append(f"{brief.axis} differs from the catalogue in category or knobs")
            faults += [f"{brief.axis} has no move {m}" for m in brief.moves if axis.move(m) is None]
    return faults


def _bundle_faults(brief: AxisBrief, case: Case) -> list[str]:
    catalogue, count = case.history.catalogue, len(brief.combines)
    moves = catalogue.moves(brief.combines)
    if catalogue.axis(brief.axis) is not None or brief.moves or brief.own:
        return [f"{brief.axis} combines moves and is an axis of the catalogue or has its own"]
    if moves is None:
        named = ", ".join(f"{part.axis}/{part.move}" for part in brief.combines)
        return [f"{brief.axis} combines {named}, which are not all moves of the catalogue"]
    faults = []
    if not 2 <= count <= case.previous.stack_up_to:
        allowed = f"2 to {case.previous.stack_up_to}"
        faults.append(f"{brief.axis} combines {count} moves, {allowed} are allowed")
    clash = [
        c
        for i, one in enumerate(moves)
        for other in moves[i + 1 :]
        for c in conflict(one.change, other.change)
    ]
    if clash:
        faults.append(f"{brief.axis} combines moves that touch {', '.join(sorted(set(clash)))}")
    missing = set(touches(together(moves).change)) - set(brief.knobs)
    if missing:
        faults.append(f"{brief.axis} touches {', '.join(sorted(missing))}, which it does not state")
    return faults


def nothing_dead_or_standing(case: Case) -> list[str]:
    """R16."""
    new = case.policy
    dead = {(item.axis, item.move) for item in new.dont_waste_budget_on}
    faults = []
    for brief in new.axes:
        assigned = [(brief.axis, name) for name in brief.moves]
        assigned += [(part.axis, part.move) for part in brief.combines]
        assigned += [(brief.axis, own.id) for own in brief.own]
        stated = {own.id: move_from(own) for own in brief.own}
        for where, name in assigned:
            axis = case.history.catalogue.axis(where)
            move = stated.get(name) or (axis.move(name) if axis else None)
            if (where, name) in dead:
                faults.append(f"{where}/{name} is a dead end")
            elif move is not None and stands(move, new.standing):
                faults.append(f"{where}/{name} already stands")
    for item in active(new.retired, new.round):
        faults += [
            f"{brief.axis} is assigned though {item.axis or item.category} is retired"
            for brief in new.axes
            if brief.axis == item.axis
            or item.category in _spanned(case.history.catalogue, brief)
            or any(part.axis == item.axis for part in brief.combines)
        ]
    return faults


def repeated(names: Sequence[str]) -> list[str]:
    """Names that stand more than once."""
    return sorted({name for name in names if names.count(name) > 1})
