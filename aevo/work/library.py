"""What the operator gives workers to read: a folder of papers and notes, searched by full text.

The folder is read by the trusted side alone, into an index in memory. A passage that holds an
evaluation item, or a near-copy of one, is never shown: whatever goes out is searched for dev and
hidden items first, like the data of a training (`aevo.evaluate.overlap`).

Not guaranteed: that what is found is true, or that a text in other words than an item's is no
answer to it.
"""

import re
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from aevo.errors import AevoError
from aevo.evaluate.index import Index, read_items
from aevo.evaluate.overlap import scan
from aevo.files.untrusted import IntegrityError, read_text

SUFFIXES = frozenset({".md", ".txt", ".tex", ".rst", ".bib", ".json", ".jsonl", ".csv", ".html"})
FILE_BYTES, MOST_FILES = 8 << 20, 5000  # of a folder that is indexed; the rest is passed over
PASSAGE = 1500  # characters of one passage
FOUND = 5  # passages that a question gets
WITHHELD = "[withheld: it holds an evaluation item]"


class LibraryError(AevoError):
    """A question that cannot be answered; the text goes back to the agent."""


@dataclass(frozen=True)
class Passage:
    """A piece of a file, from `line` on."""

    file: str
    line: int
    text: str


@dataclass(frozen=True)
class Library:
    """A folder (None: there is none) and the item sets that nothing of may leave it."""

    folder: Path | None
    items: Sequence[Path]

    def search(self, question: str, most: int = FOUND) -> list[Passage]:
        """The passages that fit best, by BM25; those that hold an item are left out."""
        words = dict.fromkeys(re.findall(r"\w+", question.lower())[:60])
        if self.folder is None or not words:
            return []
        query = " OR ".join(f'"{word}"' for word in words)
        rows = self._index.execute(
            "SELECT file, line, text FROM passages WHERE passages MATCH ? ORDER BY rank LIMIT ?",
            (query, 3 * most),
        )
        found = (Passage(str(file), int(line), str(text)) for file, line, text in rows)
        return [passage for passage in found if not self.holds_items(passage.text)][:most]

    def read(self, name: str, first_line: int, lines: int) -> str:
        """Lines of a file of the folder.

        Raises:
            LibraryError: there is no such file, or what was asked for holds an item.
        """
        path = next((path for path in self._files() if self._name(path) == name), None)
        if path is None:
            known = ", ".join(self._name(path) for path in list(self._files())[:40])
            raise LibraryError(f"there is no {name[:200]}; there is: {known or 'nothing'}")
        every = read_text(path, FILE_BYTES).splitlines()
        text = "\n".join(every[first_line - 1 : first_line - 1 + lines])
        if self.holds_items(text):
            raise LibraryError(f"{name}, lines {first_line} on: {WITHHELD}")
        return f"{text}\n[{name} has {len(every)} lines]"

    def holds_items(self, text: str) -> bool:
        """True if a text holds a dev or hidden item, or a near-copy of one."""
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            report = scan(self._items, Path(file.name))
        return bool(report.hits) or not report.complete

    @cached_property
    def _items(self) -> Index:
        return Index.of(read_items(list(self.items)))

    @cached_property
    def _index(self) -> sqlite3.Connection:
        index = sqlite3.connect(":memory:")
        index.execute(
            "CREATE VIRTUAL TABLE passages USING fts5(file UNINDEXED, line UNINDEXED, text)"
        )
        for path in self._files():
            try:
                text = read_text(path, FILE_BYTES)
            except IntegrityError:
                continue  # no plain text of a size that is read
            index.executemany(
                "INSERT INTO passages VALUES (?, ?, ?)",
                [(self._name(path), line, piece) for line, piece in pieces(text)],
            )
        return index

    def _files(self) -> Iterator[Path]:
        if self.folder is None:
            return
        found = (path for path in sorted(self.folder.rglob("*")) if path.suffix in SUFFIXES)
        for count, path in enumerate(found):
            if count >= MOST_FILES:
                return
            if path.is_file() and not path.is_symlink():
                yield path

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix() if self.folder else path.name


def pieces(text: str) -> Iterator[tuple[int, str]]:
    """A text as passages of whole lines, each with the number of its first line."""
    held: list[str] = []
    first = 1
    for number, line in enumerate(text.splitlines(), start=1):
        if held and sum(map(len, held)) + len(line) > PASSAGE:
            yield first, "\n".join(held)
            held, first = [], number
        held.append(line[: 4 * PASSAGE])
    if any(line.strip() for line in held):
        yield first, "\n".join(held)
