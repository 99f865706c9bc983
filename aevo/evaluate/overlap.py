"""Evaluation items in training data: exact copies, copies within longer rows, near-copies.

What is caught: an item's question as a field of its own (also in other case, spacing, Unicode
form), an item anywhere in a row (answer appended, in a long document, in a completion), and an item
with a part of it changed. Each item is found at most once.

What is not caught: text that was encoded (base64, reversed, a cipher), translated or written anew;
letters of another alphabet that look alike; near-copies of items with so little text of their own
that honest neighbours look the same (`EVIDENCE_BITS`); and data that a training program makes by
itself instead of reading it from the file.

How near-copies are told from honest neighbours. Items of a family share a template and, where the
space is small, whole lines. The template is derived from the items: n-grams that occur in more than
a small fraction of them say nothing. The rest must cover at least half of what is distinctive in
the item *and* enough of it: each tile of four words counts log2(items / items that have it) bits,
and a near-copy needs `EVIDENCE_BITS`, more than rows times items times data sets can bring about by
chance. Measured: 150 honest data sets of substrate/default (both presets, four recipes, 660,000
rows) against 288,000 items: none found; the best chance neighbour reached 48.5 of the 60 bits. With
one line changed, most items of the preset `challenge` are found (bits, gravity, cipher nearly all,
numeral hardly any); of `tiny`, whose items are shorter, none: there only copies are.
"""

import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from aevo.evaluate.index import NEAR_SHARE, Index, read_items
from aevo.evaluate.rows import MAX_BYTES, Rows
from aevo.records.inspection import Hit, OverlapReport

BATCH_TOKENS = 400_000  # words compared at a time: about 60 MB of arrays
FOUND, HITS = 5000, 20  # ids and hits that a report lists


def overlap(
    data: Path,
    items: Sequence[Path],
    n: int = 13,
    share: float = NEAR_SHARE,
    max_bytes: int = MAX_BYTES,
    until: float = math.inf,
) -> OverlapReport:
    """Looks for the items of some JSONL files in a file of training data.

    Args:
        data: JSONL with any fields, or text; anything, as a worker's code wrote it.
        items: item sets of the trusted side; an item's question is its `prompt`, or, without one,
            all its values but id, answer and meta.
        n: words of an n-gram.
        share: part of an item's distinctive text that makes a near-copy.
        max_bytes: what is read of the data; of a larger file the report is incomplete.
        until: when to stop, by the monotonic clock; the report is incomplete then.

    Returns:
        A report of the bytes that were read; its digest is of exactly those.

    Raises:
        IntegrityError: the data is no plain file; RecordError: an item file is not as it must be.
    """
    return scan(Index.of(read_items(items), n, share), data, max_bytes, until)


def scan(
    index: Index, data: Path, max_bytes: int = MAX_BYTES, until: float = math.inf
) -> OverlapReport:
    """Like `overlap`, for an index that is used more than once."""
    begun = time.monotonic()
    best: dict[int, Hit] = {}
    with Rows(data, max_bytes, index.longest) as rows:
        for batch in rows.batches(BATCH_TOKENS):
            keep_best(best, index.hits(batch))
            if time.monotonic() > until:
                rows.complete = False
                break
        hits = sorted(best.values(), key=lambda hit: (hit.row, hit.item))
        counts = {kind: sum(hit.match == kind for hit in hits) for kind in _ORDER}
        return OverlapReport(
            data_sha256=rows.sha256(),
            data_bytes=rows.size,
            rows=rows.count,
            items=len(index.ids),
            ngram=index.n,
            **counts,
            found=sorted(hit.item for hit in hits)[:FOUND],
            hits=hits[:HITS],
            complete=rows.complete,
            seconds=round(time.monotonic() - begun, 3),
        )


_ORDER = ("exact", "embedded", "near")


def keep_best(best: dict[int, Hit], found: Iterable[tuple[int, Hit]]) -> None:
    """Keeps the strongest hit of each item."""
    for number, hit in found:
        known = best.get(number)
        if known is None or _strength(hit) > _strength(known):
            best[number] = hit


def _strength(hit: Hit) -> tuple[int, float, int]:
    return -_ORDER.index(hit.match), hit.share, -hit.row
