"""The substrate's catalogue of axes, `axes.yaml`: what may be varied, and concrete moves for it.

Read as data only; the orchestrator never imports the substrate.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from aevo.errors import RecordError
from aevo.files.documents import Part, read
from aevo.files.keys import flat
from aevo.records.change import Change, Edit
from aevo.records.policy import AxisBrief, MoveRef, OwnMove, StandingChange

MIN_CATEGORIES = 5  # of seven axes (constitution R8)
FULL_AXES = 7


class Move(Part):
    """One concrete change along an axis: recipe keys to set, files to patch. `source` is the round
    and candidate that measured it, where no author of a catalogue wrote it."""

    id: str
    set: dict[str, Any] = {}
    patch: list[Edit] = []
    why: str = ""
    title: str = ""
    source: str | None = None

    @property
    def change(self) -> Change:
        """The move as a composable change."""
        return Change(set=self.set, edits=self.patch)


class Axis(Part):
    """One direction of search. `knobs` are the recipe keys (or files) that belong to it alone. A
    `real` axis exists only in a campaign that has real rows (`model.source`), one with `trainers`
    only where the campaign's is among them: others cannot do what it asks. One with `presets` is
    for those benchmarks only: its moves do not fit the answers of others."""

    id: str
    category: str
    brief: str
    knobs: list[str] = []
    moves: list[Move] = []
    transfer: bool = False
    real: bool = False
    trainers: list[str] = []
    presets: list[str] = []

    def move(self, name: str) -> Move | None:
        """The move of that id, if the axis has it."""
        return next((move for move in self.moves if move.id == name), None)

    def brief_for(self, moves: Sequence[str], reason: str) -> AxisBrief:
        """The axis as a policy assigns it, with moves of the catalogue or measured ones."""
        known = [move for name in moves if (move := self.move(name)) is not None]
        return AxisBrief(
            axis=self.id,
            category=self.category,
            brief=self.brief.strip(),
            knobs=list(self.knobs),
            moves=[name for name in moves if name not in {m.id for m in known if m.source}],
            own=[own_from(move) for move in known if move.source],
            transfer=self.transfer,
            reason=reason,
        )


class Catalogue(Part):
    """All axes of a substrate, in its author's order; `first` are those to begin a campaign with,
    unless the operator's policy names others."""

    axes: list[Axis]
    first: list[str] = []

    def axis(self, name: str) -> Axis | None:
        """The axis of that id, if there is one."""
        return next((axis for axis in self.axes if axis.id == name), None)

    @property
    def categories(self) -> list[str]:
        """The categories that occur, sorted."""
        return sorted({axis.category for axis in self.axes})

    def moves(self, parts: Sequence[MoveRef]) -> list[Move] | None:
        """The moves referred to; None if one of them is not here."""
        found = [axis.move(part.move) for part in parts if (axis := self.axis(part.axis))]
        known = [move for move in found if move is not None]
        return known if len(known) == len(parts) else None

    def with_briefs(self, briefs: Iterable[AxisBrief]) -> "Catalogue":
        """The catalogue and what a round's policy states besides: its stacks, each with its one
        move, and moves of its own, on axes of the catalogue or beside them."""
        stated = [axis for brief in briefs if (axis := self.stack(brief) or self._with_own(brief))]
        if not stated:
            return self
        names = {axis.id for axis in stated}
        axes = [*(axis for axis in self.axes if axis.id not in names), *stated]
        return self.model_copy(update={"axes": axes})

    def assigned(self, brief: AxisBrief) -> list[Move]:
        """The moves that a brief asks for, in the catalogue's order; a stack's is one."""
        axis = self.stack(brief) or self._with_own(brief) or self.axis(brief.axis)
        if axis is None:
            return []
        wanted = {*brief.moves, *(move.id for move in brief.own)}
        return [move for move in axis.moves if brief.combines or move.id in wanted]

    def _with_own(self, brief: AxisBrief) -> Axis | None:
        """The axis of a brief with the moves that the policy states for it; None if it states
        none."""
        if not brief.own:
            return None
        axis = self.axis(brief.axis)
        own = [move_from(move) for move in brief.own]
        return Axis(
            id=brief.axis,
            category=brief.category,
            brief=brief.brief,
            knobs=list(brief.knobs),
            moves=[*(axis.moves if axis else []), *own],
            transfer=brief.transfer,
        )

    def stack(self, brief: AxisBrief) -> Axis | None:
        """The axis that a brief makes of moves put together; None if it makes none, or names a move
        that is not here."""
        moves = self.moves(brief.combines)
        if not moves:
            return None
        return Axis(
            id=brief.axis,
            category=brief.category,
            brief=brief.brief,
            knobs=list(brief.knobs),
            moves=[together(moves)],
            transfer=brief.transfer,
        )


def load(path: Path, real: bool = False, trainer: str = "", preset: str = "") -> Catalogue:
    """Reads a catalogue; without `real`, less the axes that need real rows, and less those of other
    trainers than `trainer` and other benchmarks than `preset`.

    Raises:
        RecordError: missing, not valid, or an id that occurs twice; names what and where.
    """
    catalogue = whole(path)
    axes = [
        axis
        for axis in catalogue.axes
        if (real or not axis.real)
        and (not axis.trainers or trainer in axis.trainers)
        and (not axis.presets or preset in axis.presets)
    ]
    return catalogue.model_copy(update={"axes": axes})


def whole(path: Path) -> Catalogue:
    """Reads a catalogue with all of its axes, whoever they are for.

    Raises:
        RecordError: missing, not valid, or an id that occurs twice; names what and where.
    """
    catalogue = read(Catalogue, path)
    repeated = _repeated(axis.id for axis in catalogue.axes)
    for axis in catalogue.axes:
        repeated += [f"{axis.id}/{name}" for name in _repeated(move.id for move in axis.moves)]
    if repeated:
        raise RecordError(f"{path} names twice: {', '.join(repeated)}", "give each its own id")
    return catalogue


def move_from(own: OwnMove) -> Move:
    """A move that a policy states, as one of a catalogue."""
    return Move(
        id=own.id, set=own.set, patch=own.patch, why=own.why, title=own.title, source=own.source
    )


def own_from(move: Move) -> OwnMove:
    """A measured move as a policy states it."""
    return OwnMove(
        id=move.id,
        set=move.set,
        patch=move.patch,
        why=move.why,
        title=move.title,
        source=move.source,
    )


def together(moves: Sequence[Move]) -> Move:
    """Several moves that touch nothing in common, as one."""
    return Move(
        id="+".join(move.id for move in moves),
        set={key: value for move in moves for key, value in move.set.items()},
        patch=[edit for move in moves for edit in move.patch],
        why="; ".join(move.why for move in moves if move.why),
    )


def has_all(change: Change, moves: Sequence[Move]) -> bool:
    """True if a measured change holds something of each of these moves, and nothing else."""
    measured = flat(change.set).items()
    files = {edit.file for edit in change.edits}
    whole = together(moves)
    return (
        measured <= flat(whole.set).items()
        and files == {edit.file for edit in whole.patch}
        and _same_lines(whole.patch, change.edits)
        and all(move.patch or flat(move.set).items() & measured for move in moves)
    )


def categories_needed(n_axes: int, catalogue: Catalogue) -> int:
    """How many categories `n_axes` must span: five of seven, in proportion for fewer axes."""
    scaled = math.ceil(n_axes * MIN_CATEGORIES / FULL_AXES)
    return min(scaled, MIN_CATEGORIES, len(catalogue.categories))


@lru_cache(maxsize=65_536)
def overlap(first: str, second: str) -> bool:
    """True if two dotted keys (or files) are one, or one lies inside the other."""
    return first == second or first.startswith(second + ".") or second.startswith(first + ".")


def shared_knobs(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """The knobs of `first` that overlap one of `second`."""
    return [knob for knob in first if any(overlap(knob, other) for other in second)]


def touches(change: Change) -> list[str]:
    """The recipe keys and files that a change touches."""
    return sorted({*change.set, *(edit.file for edit in change.edits)})


def conflict(first: Change, second: Change) -> list[str]:
    """What two changes both touch; empty if they can stand together."""
    return shared_knobs(touches(first), touches(second))


def stands(move: Move, standing: Sequence[StandingChange]) -> bool:
    """True if the standing recipe already has the move, or has replaced the text it would patch."""
    values: dict[str, str] = {}
    edits: list[Edit] = []
    for promoted in standing:
        values.update(flat(promoted.change.set))
        edits += promoted.change.edits
    # A measured edit holds whole lines and some context, a patch as little as finds its place.
    if any(
        edit.file == other.file and (edit.find in other.find or other.find in edit.find)
        for edit in move.patch
        for other in edits
    ):
        return True
    return not move.patch and flat(move.set).items() <= values.items()


def select(
    ordered: Sequence[Axis], count: int, categories: int, spanned: Collection[str] = ()
) -> list[Axis] | None:
    """The first `count` axes, in the given order of preference, that share no knob and span
    `categories` categories, those `spanned` by others included; None if no choice does. Depth
    first, so earlier axes win."""

    def extend(start: int, chosen: list[Axis]) -> list[Axis] | None:
        missing = categories - len({*spanned, *(axis.category for axis in chosen)})
        if len(chosen) == count:
            return chosen if missing <= 0 else None
        if missing > count - len(chosen) or count - len(chosen) > len(ordered) - start:
            return None
        reachable = {*spanned, *(axis.category for axis in [*chosen, *ordered[start:]])}
        if len(reachable) < categories:
            return None
        for index in range(start, len(ordered)):
            axis = ordered[index]
            if any(shared_knobs(axis.knobs, other.knobs) for other in chosen):
                continue
            found = extend(index + 1, [*chosen, axis])
            if found is not None:
                return found
        return None

    return extend(0, [])


def _repeated(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    twice = []
    for name in names:
        if name in seen and name not in twice:
            twice.append(name)
        seen.add(name)
    return twice


def move_of(axis: Axis, change: Change) -> str | None:
    """The move that made a measured change: it explains all keys set and patches the same files.

    A measured change leaves out keys that a move sets to the value they had, so of several moves
    that explain it the one that sets fewest keys is meant. A patch is known by the very lines that
    it takes out and puts in: with one constant edited it is another change, of the worker's own.
    """
    files = {edit.file for edit in change.edits}
    measured = flat(change.set).items()
    fitting = [
        move
        for move in axis.moves
        if {edit.file for edit in move.patch} == files
        and measured <= flat(move.set).items()
        and not change.empty
    ]
    fitting = [move for move in fitting if _same_lines(move.patch, change.edits)]
    return min((len(flat(move.set)), move.id) for move in fitting)[1] if fitting else None


def _same_lines(patch: Sequence[Edit], edits: Sequence[Edit]) -> bool:
    """True if measured edits, which hold whole lines, put in what a patch does, which may quote
    parts of lines."""
    meant_out, meant_in = _moved(patch)
    out, put = _moved(edits)
    if (len(meant_out), len(meant_in)) != (len(out), len(put)):
        return False
    return all(line in put or _within(line, meant_out, out, put) for line in meant_in)


def _within(line: str, meant_out: list[str], out: list[str], put: list[str]) -> bool:
    """True if a patched part of a line makes one of the lines put in of one taken out."""
    return any(
        whole.count(part) == 1 and whole.replace(part, line) in put
        for part in meant_out
        for whole in out
    )


def _moved(edits: Sequence[Edit]) -> tuple[list[str], list[str]]:
    """The lines that edits take out and put in, however much context each quotes."""
    out: list[str] = []
    put: list[str] = []
    for edit in edits:
        old, new = (
            Counter(line.strip() for line in text.splitlines() if line.strip())
            for text in (edit.find, edit.replace)
        )
        out += (old - new).elements()
        put += (new - old).elements()
    return out, put
