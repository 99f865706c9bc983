"""Applying a `Change` to a fork, and reading off the change between two forks."""

import difflib
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from aevo.errors import SubstrateError
from aevo.files import digest, plain
from aevo.files.documents import write_text
from aevo.files.keys import set_key
from aevo.files.untrusted import IntegrityError, read_text
from aevo.records.change import Change, Edit
from aevo.substrate.layout import with_keys

PAIRS = 200_000  # of equal lines, of two texts that are compared line by line


def apply(change: Change, fork: Path, recipe: str) -> None:
    """Applies `change` to the files of `fork`; applying it to other files than it was made from
    is allowed as long as every edit still finds its place.

    Raises:
        SubstrateError: an edit's `find` does not occur exactly once, or its file is missing.
    """
    if change.set:
        path = fork / recipe
        data = load_recipe(path)
        text = with_keys(_text(path), change.set)  # its comments stay, and what a worker quotes
        for key, value in change.set.items():
            set_key(data, key, value)
        write_text(path, text if _holds(text, data) else dump_recipe(data))
    for edit in change.edits:
        _apply_edit(edit, fork)


def _holds(text: str, data: dict[str, Any]) -> bool:
    """True if a recipe's text says exactly this: 1, 1.0 and true are three values."""
    try:
        found = parse_recipe(text, "the recipe")
    except SubstrateError:
        return False
    return digest.of_value(found) == digest.of_value(data)


def _apply_edit(edit: Edit, fork: Path) -> None:
    path = fork / edit.file
    if not edit.find:
        if path.exists() and _text(path) != edit.replace:
            raise SubstrateError(f"{edit.file} would be created, but exists in {fork}")
        write_text(path, edit.replace)
        return
    text = _text(path)
    count = text.count(edit.find)
    if count != 1:
        first = edit.find.strip().splitlines()[0] if edit.find.strip() else edit.find
        raise SubstrateError(
            f"the edit of {edit.file} does not fit: `{first}` … occurs {count} times in {fork}",
            "the change was made for another version of that file; it cannot be stacked here",
        )
    write_text(path, text.replace(edit.find, edit.replace))


def between(old: Path, new: Path, mutable: Iterable[str], recipe: str) -> Change:
    """The change that turns the mutable files of `old` into those of `new`.

    A deleted file appears as an edit to nothing; binary files are refused.

    Raises:
        SubstrateError: the recipe of `new` is not YAML, or a changed file is not text.
    """
    names = list(mutable)
    before, after = digest.entries(old, names), digest.entries(new, names)
    edits: list[Edit] = []
    for name in sorted(set(before) | set(after)):
        if name == recipe or before.get(name) == after.get(name):
            continue
        edits += _edits(name, _text(old / name), _text(new / name))
    changed = _changed_keys(load_recipe(old / recipe), load_recipe(new / recipe))
    return Change(set=changed, edits=edits)


def load_recipe(path: Path) -> dict[str, Any]:
    """Reads a recipe as a mapping of plain values (`aevo.files.plain`).

    Raises:
        SubstrateError: the file is missing, no plain file, not YAML, not a mapping, or holds
            values that are not plain.
    """
    try:
        text = read_text(path, plain.Limits().bytes)
    except IntegrityError as error:
        if not os.path.lexists(path):
            raise SubstrateError(f"{path} is missing", "restore it from the substrate") from error
        raise SubstrateError(error.what, "it must be a text file of recipe keys") from error
    return parse_recipe(text, str(path))


def parse_recipe(text: str, where: str) -> dict[str, Any]:
    """Like `load_recipe`, from text; `where` names it in errors."""
    try:
        data = plain.from_yaml(text, where)
    except plain.FormError as error:
        raise SubstrateError(error.what, error.mend) from error
    if not isinstance(data, dict):
        raise SubstrateError(f"{where} is not a mapping of sections")
    return data


def dump_recipe(data: dict[str, Any]) -> str:
    """Writes a recipe as YAML in its own key order."""
    return yaml.safe_dump(data, sort_keys=False, width=100)


def _changed_keys(old: Any, new: Any, prefix: str = "") -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key in [*old, *(key for key in new if key not in old)]:
        name = f"{prefix}{key}"
        before, after = old.get(key), new.get(key)
        if key not in old and isinstance(after, dict) and after:
            before = {}  # a section that is new: by its keys, so that others may add to it
        if isinstance(before, dict) and isinstance(after, dict):
            plain = not any(isinstance(value, dict) for value in before.values())
            if plain and before.keys() - after.keys():
                changed[name] = after  # comes whole: None would set the key that went
                continue
            changed |= _changed_keys(before, after, f"{name}.")
        elif digest.of_value(before) != digest.of_value(after):  # 1, 1.0 and true are three values
            changed[name] = after
    return changed


def _text(path: Path) -> str:
    """A file of a fork, byte for byte; empty if there is none."""
    if not os.path.lexists(path):
        return ""
    try:
        return read_text(path)
    except IntegrityError as error:
        raise SubstrateError(error.what, "a fork may hold regular text files only") from error


def _edits(name: str, old: str, new: str) -> list[Edit]:
    """The lines that differ, each block with enough context to be unique in the old file.

    Blocks whose context would run into one another fall back to one edit of the whole file, and so
    do texts that were made to take for ever: what compares them takes each pair of equal lines in
    its hand, over and over.
    """
    if not old:
        return [Edit(file=name, find="", replace=new)]
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    had, has = Counter(before), Counter(after)
    if sum(count * has[line] for line, count in had.items()) > PAIRS:
        return [Edit(file=name, find=old, replace=new)]
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    edits, result = [], old
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            continue
        lead, tail = _context(a, b, before, old)
        head, foot = "".join(before[a - lead : a]), "".join(before[b : b + tail])
        find = head + "".join(before[a:b]) + foot
        edits.append(Edit(file=name, find=find, replace=head + "".join(after[c:d]) + foot))
        if result.count(find) != 1:
            return [Edit(file=name, find=old, replace=new)]
        result = result.replace(find, edits[-1].replace)
    return edits if result == new else [Edit(file=name, find=old, replace=new)]


def _context(a: int, b: int, lines: list[str], text: str) -> tuple[int, int]:
    """How many lines before `a` and after `b` make lines[a:b] non-empty and unique in `text`."""
    lead = tail = 0
    while a - lead == b + tail or text.count("".join(lines[a - lead : b + tail])) != 1:
        if a - lead == 0 and b + tail == len(lines):
            break
        lead, tail = min(lead + 1, a), min(tail + 1, len(lines) - b)
    return lead, tail
