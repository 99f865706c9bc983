"""What turns one recipe into another: keys set in recipe.yaml and exact edits of pipeline files."""

from typing import Any

from aevo.files.documents import Part


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


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_short(item)}" for key, item in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)
