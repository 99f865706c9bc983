"""Digests (sha256, hex) of files and of file trees."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

IGNORED = {"__pycache__", ".DS_Store", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


def of_bytes(data: bytes) -> str:
    """sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def of_file(path: Path) -> str:
    """sha256 of a file's content, read in blocks (a base checkpoint may be 60 GB)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_value(value: Any) -> str:
    """sha256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return of_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def files_below(root: Path, names: Iterable[str]) -> list[Path]:
    """Regular files of the named files and folders below `root`, sorted, caches left out.

    Symbolic links are listed too (never followed): a tree that holds one has another digest.
    """
    found: list[Path] = []
    for name in names:
        start = root / name
        if start.is_symlink() or start.is_file():
            found.append(start)
            continue
        for folder, folders, files in walk(start):
            here = Path(folder)
            found += [here / entry for entry in folders if (here / entry).is_symlink()]
            folders[:] = [entry for entry in folders if entry not in IGNORED]
            found += [here / entry for entry in files if not ignored(entry)]
    return sorted(found)


def walk(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk`, which a tree of a thousand folders in each other cannot bring down. What cannot be
    looked into is passed over; folders that the caller takes out of its list are not entered."""
    pending = [str(top)]
    while pending:
        here = pending.pop()
        folders: list[str] = []
        files: list[str] = []
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    (folders if _is_folder(entry) else files).append(entry.name)
        except OSError:
            continue
        links = {name for name in folders if Path(here, name).is_symlink()}
        yield here, folders, files
        pending += [str(Path(here, name)) for name in reversed(folders) if name not in links]


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def ignored(name: str) -> bool:
    """True for byte code and tool caches, which are no part of any tree."""
    return name in IGNORED or name.endswith((".pyc", ".pyo"))


def entries(root: Path, names: Iterable[str]) -> dict[str, str]:
    """`{relative path: "mode:sha256"}`; mode is x for executable, - for plain, l for a link."""
    result = {}
    for path in files_below(root, names):
        if path.is_symlink():
            leaf = "l:" + of_bytes(str(path.readlink()).encode())
        else:
            leaf = ("x:" if os.access(path, os.X_OK) else "-:") + of_file(path)
        result[path.relative_to(root).as_posix()] = leaf
    return result


def of_tree(root: Path, names: Iterable[str]) -> str:
    """The Merkle digest of a tree over path, mode and content."""
    return of_value(entries(root, names))
