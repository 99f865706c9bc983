"""Reading training data that a worker's code wrote, in bounded memory, whatever it is."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from aevo.evaluate.text import MAX_LEAVES, Pairs, compact, leaves, normal, tokens, unescape
from aevo.evaluate.untrusted import open_file

MAX_BYTES = 2 << 30  # of a data file
MAX_LINE = 4 << 20  # a longer line is read as text, in pieces
BLOCK = 1 << 20
MIN_PIECE = 512  # words; a long row is compared in pieces of at least so many

Words = NDArray[np.uint64]


@dataclass
class Batch:
    """Pieces of rows as one array of hashed words, a separator after each piece.

    `row_of[i]` is the line of word i; `fields` are hashes of whole fields without white space.
    """

    words: Words
    row_of: NDArray[np.int64]
    piece_of: NDArray[np.int64]
    fields: dict[int, int] = field(default_factory=dict)  # hash -> first line that has it


def hashed(words: list[str]) -> Words:
    """64-bit hashes of words (of this process; not for keeping)."""
    return np.fromiter(map(hash, words), dtype=np.int64, count=len(words)).view(np.uint64)


class Rows:
    """The rows of one file, as a context manager.

    Guarantees: the digest is of the bytes that were compared; memory does not grow with the file
    or its lines. Not guaranteed: that a line above `MAX_LINE` is understood as JSON.
    """

    def __init__(self, path: Path, max_bytes: int, longest: int) -> None:
        """`longest` is the number of words of the longest item: pieces overlap by as many."""
        self.path, self.max_bytes = path, max_bytes
        self.overlap = longest
        self.piece = max(MIN_PIECE, 4 * longest)
        self.size, self.count, self.complete = 0, 0, True
        self._digest = hashlib.sha256()
        self._pieces = 0

    def __enter__(self) -> "Rows":
        self._file: BinaryIO = os.fdopen(open_file(self.path), "rb", buffering=0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def sha256(self) -> str:
        """Of what was read so far."""
        return self._digest.hexdigest()

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches of about `size` words."""
        parts: list[Words] = []
        rows: list[tuple[int, int, int]] = []  # line, piece, words
        fields: dict[int, int] = {}
        total = 0
        for number, text, values in self._texts():
            for value in values:
                fields.setdefault(hash(compact(value)), number)
            words = hashed(tokens(text))
            for piece in self._cut(words):
                self._pieces += 1
                parts += [piece, np.array([_separator(self._pieces)], dtype=np.uint64)]
                rows.append((number, self._pieces, len(piece) + 1))
                total += len(piece) + 1
                if total >= size:
                    yield _batch(parts, rows, fields)
                    parts, rows, fields, total = [], [], {}, 0
        if rows or fields:
            yield _batch(parts, rows, fields)

    def _texts(self) -> Iterator[tuple[int, str, list[str]]]:
        """Line number, normalised text and normalised fields of each row."""
        for number, line, whole in self._lines():
            values = _values(line) if whole else [unescape(line)]
            values = [normal(value) for value in values]
            text = "\n".join(values)
            yield number, text, [*values, text] if len(values) > 1 else values

    def _lines(self) -> Iterator[tuple[int, str, bool]]:
        """Lines; one that is too long comes in parts that overlap, none of them whole."""
        rest, cut = b"", False
        for block in self._blocks():
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                self.count += 1
                yield self.count, _decoded(line), not cut
                cut = False
            if len(rest) > MAX_LINE:
                yield self.count + 1, _decoded(rest), False
                # Enough for the longest item, each word of which may be long or escaped.
                rest, cut = rest[-min(MAX_LINE // 2, 64 * self.overlap + 4096) :], True
        if rest:
            self.count += 1
            yield self.count, _decoded(rest), not cut

    def _blocks(self) -> Iterator[bytes]:
        while block := self._file.read(min(BLOCK, self.max_bytes - self.size)):
            self.size += len(block)
            self._digest.update(block)
            yield block
        self.complete = not self._file.read(1)

    def _cut(self, words: Words) -> Iterator[Words]:
        if len(words) <= self.piece:
            yield words
            return
        for start in range(0, len(words), self.piece - self.overlap):
            yield words[start : start + self.piece]


def _decoded(line: bytes) -> str:
    return line.decode("utf-8", errors="replace")


def _values(line: str) -> list[str]:
    try:
        value = json.loads(line, object_pairs_hook=Pairs)
    except (ValueError, RecursionError):
        return [unescape(line)]
    found = leaves(value)
    # Too many values to look at one by one: what is left out is seen as text.
    return [*found, unescape(line)] if len(found) >= MAX_LEAVES else found


def _separator(number: int) -> int:
    return (number * 0x9E3779B97F4A7C15 + 0x7F4A7C15) & (2**64 - 1)


def _batch(parts: list[Words], rows: list[tuple[int, int, int]], fields: dict[int, int]) -> Batch:
    lengths = np.array([length for *_, length in rows], dtype=np.int64)
    lines = np.array([line for line, *_ in rows], dtype=np.int64)
    pieces = np.arange(len(rows), dtype=np.int64)
    words = np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)
    return Batch(words, np.repeat(lines, lengths), np.repeat(pieces, lengths), fields)
