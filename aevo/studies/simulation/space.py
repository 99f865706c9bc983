"""The space that searches move in: recipes as moves of a catalogue, at most one on a knob."""

from collections.abc import Mapping
from dataclasses import dataclass

from aevo.substrate.catalogue import Catalogue, Move, conflict

Key = tuple[str, str]  # axis, move
Recipe = tuple[Key, ...]  # the moves on top of the default recipe, in the order they came


@dataclass(frozen=True)
class Space:
    """All moves of a catalogue and which of them touch the same recipe keys or files."""

    moves: Mapping[Key, Move]
    rivals: Mapping[Key, frozenset[Key]]
    category: Mapping[str, str]

    @property
    def keys(self) -> list[Key]:
        """In the catalogue's order."""
        return list(self.moves)

    def active(self, recipe: Recipe) -> Recipe:
        """The moves that are in force: a later move replaces one on the same knob."""
        kept: list[Key] = []
        for key in recipe:
            kept = [other for other in kept if other not in self.rivals[key] and other != key]
            kept.append(key)
        return tuple(kept)

    def with_move(self, recipe: Recipe, key: Key) -> Recipe:
        """The recipe with one more move."""
        return self.active((*recipe, key))


def space_of(catalogue: Catalogue) -> Space:
    """The space that a catalogue spans."""
    moves = {(axis.id, move.id): move for axis in catalogue.axes for move in axis.moves}
    changes = {key: move.change for key, move in moves.items()}
    rivals = {
        key: frozenset(
            other
            for other, its in changes.items()
            if other != key and (other[0] == key[0] or conflict(change, its))
        )
        for key, change in changes.items()
    }
    return Space(moves, rivals, {axis.id: axis.category for axis in catalogue.axes})
