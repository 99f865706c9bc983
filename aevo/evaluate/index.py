"""The evaluation items, prepared for being looked for: hashes of n-grams, and how rare they are."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aevo.errors import RecordError
from aevo.evaluate.rows import Batch, Words, hashed
from aevo.evaluate.text import Pairs, compact, leaves, normal, tokens
from aevo.records.inspection import Hit

NEAR_SHARE = 0.5
EVIDENCE_BITS = 60.0
TEMPLATE_SHARE = 0.02  # an n-gram in more than this share of the items is template
ANCHOR = 6  # words by which a copy within a row is found first
TILE = 4  # words that are counted as one piece of evidence
UNASKED = frozenset({"id", "answer", "answers", "meta", "metadata", "solution", "label", "target"})

PRIME = 0x9E3779B97F4A7C15 | 1
INVERSE = pow(PRIME, -1, 2**64)


@dataclass(frozen=True)
class Item:
    """An item's id and question."""

    id: str
    text: str


def read_items(paths: Sequence[Path]) -> list[Item]:
    """The items of some JSONL files.

    Raises:
        RecordError: a file is missing, or a line is no JSON object.
    """
    found: list[Item] = []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line, object_pairs_hook=Pairs) for line in lines if line.strip()]
        except (OSError, ValueError) as error:
            raise RecordError(f"{path} is no set of items ({error})") from error
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, Pairs):
                raise RecordError(f"{path}:{number} is no JSON object")
            found.append(_item(row, f"{path.stem}:{number}"))
    return found


def _item(row: Pairs, otherwise: str) -> Item:
    fields: dict[str, Any] = dict(row)
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        asked = Pairs((key, value) for key, value in row if key not in UNASKED)
        prompt = "\n".join(leaves(asked))
    return Item(str(fields.get("id", otherwise)), normal(prompt))


class Windows:
    """Hash of any run of words in one step, from running sums (a polynomial modulo 2^64)."""

    def __init__(self, words: Words) -> None:
        powers = np.cumprod(np.full(len(words) + 1, PRIME, dtype=np.uint64))
        inverses = np.cumprod(np.full(len(words) + 1, INVERSE, dtype=np.uint64))
        self.inverses = inverses
        self.sums = np.zeros(len(words) + 1, dtype=np.uint64)
        np.cumsum(words * powers[: len(words)], out=self.sums[1:])

    def all(self, n: int) -> Words:
        """Of every window of n words, by where it starts."""
        count = max(0, len(self.sums) - n)
        return np.multiply(
            self.sums[n:] - self.sums[:count], self.inverses[:count], dtype=np.uint64
        )

    def at(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Words:
        """Of windows that lie within the words."""
        return (self.sums[starts + lengths] - self.sums[starts]) * self.inverses[starts]


class Postings:
    """Sorted hashes, each with the items and places that have it."""

    def __init__(self, hashes: Sequence[int], items: Sequence[int], places: Sequence[int]) -> None:
        keys = np.array(hashes, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        self.keys = keys[order]
        self.items = np.array(items, dtype=np.int64)[order]
        self.places = np.array(places, dtype=np.int64)[order]
        # Nearly all words of the data miss: a bit field of the hashes' ends sorts them out.
        self.filter = np.zeros(1 << 20, dtype=bool)
        self.filter[_low(self.keys)] = True

    def lookup(self, wanted: Words) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs (index into `wanted`, index into the postings) of equal hashes."""
        if not len(self.keys):
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        likely = np.flatnonzero(self.filter[_low(wanted)])
        first = np.searchsorted(self.keys, wanted[likely], side="left")
        last = np.searchsorted(self.keys, wanted[likely], side="right")
        counts = last - first
        starts = np.repeat(first - (np.cumsum(counts) - counts), counts)
        return np.repeat(likely, counts), starts + np.arange(counts.sum())


def _low(hashes: Words) -> Words:
    return hashes >> np.uint64(44)


class Index:
    """Built by `Index.of`; `hits` is what it is for."""

    def __init__(self, items: Sequence[Item], n: int, share: float, evidence: float) -> None:
        self.n, self.share, self.evidence = n, share, evidence
        self.ids = [item.id for item in items]
        words = [hashed(tokens(item.text)) for item in items]
        windows = [Windows(row) for row in words]
        self.lengths = np.array([len(row) for row in words], dtype=np.int64)
        self.longest = int(max(self.lengths, default=0))
        self.whole = np.array(
            [int(row.all(len(row.sums) - 1)[0]) if len(row.sums) > 1 else 0 for row in windows],
            dtype=np.uint64,
        )
        self.fields: dict[int, list[int]] = {}
        for number, item in enumerate(items):
            self.fields.setdefault(hash(compact(item.text)), []).append(number)
        self.anchors = self._anchors(windows)
        self.bits = _bits(windows)
        self.total = np.array([float(row.sum()) for row in self.bits])
        self.ngrams = self._ngrams(windows)

    @classmethod
    def of(
        cls,
        items: Sequence[Item],
        n: int = 13,
        share: float = NEAR_SHARE,
        evidence: float = EVIDENCE_BITS,
    ) -> "Index":
        """The index of some items; an item without any word is left out."""
        return cls([item for item in items if tokens(item.text)], n, share, evidence)

    def _anchors(self, windows: list[Windows]) -> Postings:
        """The rarest window of each item that is long enough to have one."""
        every = [row.all(ANCHOR).tolist() for row in windows]
        counts = Counter(value for row in every for value in set(row))
        keys, items, places = [], [], []
        for number, row in enumerate(every):
            if row:
                place = min(range(len(row)), key=lambda at: counts[row[at]])
                keys.append(row[place])
                items.append(number)
                places.append(place)
        return Postings(keys, items, places)

    def _ngrams(self, windows: list[Windows]) -> Postings:
        """All n-grams that are no template, of items that could give enough evidence."""
        every = [row.all(self.n).tolist() for row in windows]
        counts = Counter(value for row in every for value in set(row))
        common = max(3.0, TEMPLATE_SHARE * len(every))
        keys, items, places = [], [], []
        for number, row in enumerate(every):
            if self.total[number] < self.evidence:
                continue
            for place, value in enumerate(row):
                if counts[value] <= common:
                    keys.append(value)
                    items.append(number)
                    places.append(place)
        return Postings(keys, items, places)

    def hits(self, batch: Batch) -> Iterator[tuple[int, Hit]]:
        """Items found in a batch, by their number; an item may come more than once."""
        for key in self.fields.keys() & batch.fields.keys():
            for number in self.fields[key]:
                yield number, self._hit(number, batch.fields[key], "exact", 1.0)
        if not len(batch.words):
            return
        windows = Windows(batch.words)
        yield from self._embedded(batch, windows)
        yield from self._near(batch, windows)

    def _embedded(self, batch: Batch, windows: Windows) -> Iterator[tuple[int, Hit]]:
        at, posting = self.anchors.lookup(windows.all(ANCHOR))
        items = self.anchors.items[posting]
        starts, lengths = at - self.anchors.places[posting], self.lengths[items]
        fits = (starts >= 0) & (starts + lengths <= len(batch.words))
        starts, lengths, items = starts[fits], lengths[fits], items[fits]
        same = windows.at(starts, lengths) == self.whole[items]
        found, first = np.unique(items[same], return_index=True)
        for number, start in zip(found.tolist(), starts[same][first].tolist(), strict=True):
            yield number, self._hit(number, int(batch.row_of[start]), "embedded", 1.0)

    def _near(self, batch: Batch, windows: Windows) -> Iterator[tuple[int, Hit]]:
        """Groups n-grams by item and piece; n-grams never reach over the end of a piece, for the
        separator behind it is in no item."""
        at, posting = self.ngrams.lookup(windows.all(self.n))
        if not len(at):
            return
        pieces = int(batch.piece_of[-1]) + 1
        wide = self.n + self.longest
        group = self.ngrams.items[posting] * pieces + batch.piece_of[at]
        code = np.unique(group * wide + self.ngrams.places[posting])
        groups, begins = np.unique(code // wide, return_index=True)
        ends = np.append(begins[1:], len(code))
        for name, begin, end in zip(groups.tolist(), begins.tolist(), ends.tolist(), strict=True):
            number, piece = divmod(name, pieces)
            bits = self._covered(number, code[begin:end] % wide)
            if bits >= self.evidence and bits >= self.share * self.total[number]:
                row = int(batch.row_of[np.searchsorted(batch.piece_of, piece)])
                yield number, self._hit(number, row, "near", bits / self.total[number])

    def _covered(self, number: int, places: NDArray[np.int64]) -> float:
        """Bits of the item's tiles that lie within n-grams that were found."""
        marks = np.zeros(int(self.lengths[number]) + 1, dtype=np.int64)
        np.add.at(marks, places, 1)
        np.add.at(marks, places + self.n, -1)
        covered = np.cumsum(marks[:-1]) > 0
        bits = self.bits[number]
        tiles = int(self.lengths[number]) // TILE
        whole = covered[: tiles * TILE].reshape(tiles, TILE).all(axis=1)
        return float(bits[:tiles][whole].sum())

    def _hit(self, number: int, row: int, match: Any, share: float) -> Hit:
        return Hit(item=self.ids[number], row=row, match=match, share=round(min(1.0, share), 3))


def _bits(windows: list[Windows]) -> list[NDArray[np.float64]]:
    """For each item the bits of its tiles of `TILE` words, from its start on."""
    every = [row.all(TILE).tolist() for row in windows]
    counts = Counter(value for row in every for value in set(row))
    return [
        np.array([math.log2(len(every) / counts[value]) for value in row[::TILE]]) for row in every
    ]
