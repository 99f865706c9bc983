"""What turns one recipe into another: keys set in recipe.yaml and exact edits of pipeline files."""

import hashlib
from collections.abc import Iterator
from typing import Any

from aevo.files.documents import Part

SHOWN, WIDTH = 40, 160  # lines of an excerpt of a change, and characters of each
DIGITS = 8  # of a digest that names a change


class Edit(Part):
    """Replaces `find`, which must occur exactly once in `file`, by `replace`.

    An empty `find` creates the file; it must not exist.
    """

    file: str
    find: str
    replace: str


class Change(Part):
    """A composable difference between two forks. `set` maps dotted recipe keys to new values."""

    set: dict[str, Any] = {}
    edits: list[Edit] = []

    @property
    def empty(self) -> bool:
        """True if it changes nothing: the mark of an anchor."""
        return not self.set and not self.edits

    def summary(self) -> str:
        """One line for tables and logs: `train.learning_rate=0.006; data/mixture.py edited`."""
        keys = [f"{key}={_short(value)}" for key, value in sorted(self.set.items())]
        files = sorted({f"{edit.file} edited" for edit in self.edits})
        return "; ".join(keys + files) or "unchanged"

    @property
    def sha256(self) -> str:
        """sha256 of the change's content: two changes of one file are two changes."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def name(self) -> str:
        """What a ledger calls a change that no catalogue has: its keys and values, and where it
        edits files, which say nothing of their lines, its digest besides."""
        return f"{self.summary()} #{self.sha256[:DIGITS]}" if self.edits else self.summary()

    def excerpt(self, most: int = SHOWN) -> list[str]:
        """The lines that its edits take out and put in, file by file, cut to `most` lines."""
        lines = [line[:WIDTH] for edit in self.edits for line in _lines(edit)]
        left = len(lines) - most
        return lines if left <= 0 else [*lines[:most], f"… {left} lines more"]


def _lines(edit: Edit) -> Iterator[str]:
    """One edit as a diff without the context that both of its sides share."""
    old, new = edit.find.splitlines(), edit.replace.splitlines()
    while old and new and old[0] == new[0]:
        old, new = old[1:], new[1:]
    while old and new and old[-1] == new[-1]:
        old, new = old[:-1], new[:-1]
    yield f"{edit.file}:" if edit.find else f"{edit.file} (new):"
    yield from (f"- {line}" for line in old)
    yield from (f"+ {line}" for line in new)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_short(item)}" for key, item in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)
