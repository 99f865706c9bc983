"""Changes that no catalogue has: named when they were measured, kept, and tried again.

A worker's code, a value between the catalogue's, a move that the policy states: each is a trial
like any other, of an axis, and its ledger entry keeps the change itself (`records.policy.OwnMove`).
So what one round could not decide, a later one can assign again, exactly as it was measured, with
another seed.
"""

from collections.abc import Iterable, Iterator, Sequence

from aevo.policy.briefs import scores_in
from aevo.records.evidence import CandidateSummary
from aevo.records.policy import AxisBrief, OwnMove, Trial
from aevo.substrate.catalogue import Axis, Catalogue, Move, move_from, overlap, touches

BRIEF = "A change that was measured before and not decided."  # of an axis that no catalogue has
LARGEST = 20_000  # characters of patches that a policy carries along


def measured(summary: CandidateSummary, number: int, move: str, brief: AxisBrief) -> OwnMove | None:
    """What a candidate stands by, as a move to be tried again; None for the catalogue's own, which
    are there anyhow, for a stack, and for what is too large to carry along."""
    if move in brief.moves or brief.combines or summary.change.empty:
        return None
    source = f"r{number:02d}-{summary.candidate}"
    stated = next((own for own in brief.own if own.id == move), None)
    if stated is not None:
        return stated.model_copy(update={"source": stated.source or source})
    if move != summary.change.name:
        return None
    change = summary.change
    if sum(len(edit.find) + len(edit.replace) for edit in change.edits) > LARGEST:
        return None
    title = "" if scores_in(summary.title) else summary.title  # no worker is told a score (R11)
    return OwnMove(id=move, title=title, set=change.set, patch=change.edits, source=source)


def trials_of(tried: Iterable[Trial]) -> list[Trial]:
    """The latest trial of each change that can be tried again, in the order of the ledger."""
    return list({(t.axis, t.move): t for t in tried if t.own is not None}.values())


def knobs_with(knobs: Sequence[str], own: Iterable[OwnMove]) -> list[str]:
    """An axis's knobs and what moves of the policy's own touch besides: the files of their code."""
    found = list(knobs)
    for name in (name for move in own for name in touches(move.change)):
        if not any(overlap(name, knob) for knob in found):
            found.append(name)
    return found


def axes_with(catalogue: Catalogue, tried: Sequence[Trial]) -> list[Axis]:
    """The catalogue's axes with the measured moves that they have besides, then those of axes that
    a policy made."""
    more: dict[str, list[Trial]] = {}
    for trial in trials_of(tried):
        more.setdefault(trial.axis, []).append(trial)
    axes = [
        axis.model_copy(update={"moves": [*axis.moves, *_moves(more.pop(axis.id))]})
        if axis.id in more
        else axis
        for axis in catalogue.axes
    ]
    return axes + [
        Axis(
            id=name,
            category=trials[-1].category,
            brief=BRIEF,
            knobs=knobs_with(trials[-1].knobs, [t.own for t in trials if t.own]),
            moves=list(_moves(trials)),
        )
        for name, trials in more.items()
        if trials[-1].category
    ]


def _moves(trials: Iterable[Trial]) -> Iterator[Move]:
    return (move_from(trial.own) for trial in trials if trial.own)


def repeated(trial: Trial, catalogue: Catalogue, reason: str) -> AxisBrief | None:
    """The brief that assigns a measured change again; None for a trial that kept none."""
    if trial.own is None:
        return None
    axis = catalogue.axis(trial.axis)
    knobs = axis.knobs if axis else trial.knobs
    return AxisBrief(
        axis=trial.axis,
        category=axis.category if axis else trial.category,
        brief=axis.brief.strip() if axis else BRIEF,
        knobs=knobs_with(knobs, [trial.own]),
        own=[trial.own],
        transfer=axis.transfer if axis else False,
        reason=reason,
    )


def own_faults(brief: AxisBrief, catalogue: Catalogue, tried: Sequence[Trial]) -> Iterator[str]:
    """What is wrong with the moves that a brief states itself (constitution R15)."""
    axis = catalogue.axis(brief.axis)
    known = {trial.move: trial.own for trial in trials_of(t for t in tried if t.axis == brief.axis)}
    for move in brief.own:
        where = f"{brief.axis}/{move.id}"
        if move.change.empty:
            yield f"{where} sets and patches nothing"
        if axis is not None and axis.move(move.id) is not None:
            yield f"{where} is a move of the catalogue: name it in `moves`"
        foreign = [
            name
            for name in touches(move.change)
            if not any(overlap(name, knob) for knob in brief.knobs)
        ]
        if foreign:
            yield f"{where} touches {', '.join(foreign)}, which is no knob of its axis"
        before = known.get(move.id)
        if move.source is not None and before != move:
            yield f"{where} is not the change that {move.source} measured"
        elif move.source is None and before is not None and before.change != move.change:
            yield f"{where} is the name of another change, measured by {before.source}"
    if len({move.id for move in brief.own}) < len(brief.own):
        yield f"{brief.axis} states a move twice"


def allotment_faults(axes: Sequence[AxisBrief], each: int | None) -> Iterator[str]:
    """What is wrong with the trainings and seeds that a policy allots; `each`: what an explorer
    may train if nothing is said, the operator's choice."""
    asked = [brief for brief in axes if brief.trainings is not None]
    if asked and each is None:
        yield "this campaign began before trainings could be allotted"
        return
    total = sum(brief.trainings or each or 0 for brief in axes)
    if asked and total > (each or 0) * len(axes):
        yield f"{total} trainings are allotted, the round has {(each or 0) * len(axes)}"
    for brief in axes:
        most = brief.trainings or each
        if most is not None and brief.seeds > most:
            yield f"{brief.axis} asks for {brief.seeds} seeds and has {most} trainings"
