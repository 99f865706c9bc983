"""Reading the competition's train.csv: every row becomes a puzzle or is counted, with the reason.

A file that cannot be right as a whole (no such columns, no rows, not text, a torn line) is refused
in one line; a row that cannot be read is left out and named in the report.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puzzles import Puzzle
from puzzles.challenge import Unreadable, read

COLUMNS = ("id", "prompt", "answer")
LINES = 5  # places that the report names for each reason
MAX_UNREAD = 0.5  # more than this share of rows unread: it is another file


class SourceError(ValueError):
    """The file is not the competition's training data; one line."""


@dataclass
class Source:
    """The usable puzzles of a file, in an order that does not hang on the file's, and what became
    of the other rows."""

    rows: int = 0
    puzzles: list[Puzzle] = field(default_factory=list)
    duplicates: int = 0
    contradictory: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    places: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def report(self) -> dict[str, Any]:
        """What the split's report says of the file."""
        return {"rows": self.rows, "usable": len(self.puzzles), "duplicates": self.duplicates,
                "contradictory": self.contradictory, "unread": dict(sorted(self.unread.items())),
                "unread_lines": dict(sorted(self.places.items()))}


def read_source(path: Path) -> Source:
    """Reads the file whole.

    Of rows with the same prompt one stays; if their answers differ, none does, for nobody knows
    which is right. A byte-order mark and CRLF line ends are taken off.

    Raises:
        SourceError: not readable, not UTF-8, not CSV, lacks a column or has no rows; or most rows
            are in no known form.
    """
    source = Source()
    found: defaultdict[str, dict[str, Puzzle]] = defaultdict(dict)
    for line, row in _rows(path):
        source.rows += 1
        try:
            puzzle = _puzzle(row)
        except Unreadable as reason:
            source.unread[str(reason)] += 1
            source.places[str(reason)] = [*source.places[str(reason)], line][:LINES]
            continue
        answers = found[puzzle.prompt]
        source.duplicates += puzzle.answer in answers
        answers.setdefault(puzzle.answer, puzzle)
    if not source.rows:
        raise SourceError(f"{path} has no rows below its header")
    _check_known(path, source)
    for prompt in sorted(found):
        if len(found[prompt]) > 1:
            source.contradictory += len(found[prompt])
        else:
            source.puzzles += found[prompt].values()
    return source


def _puzzle(row: dict[str, str]) -> Puzzle:
    prompt, answer = row["prompt"].replace("\r\n", "\n"), row["answer"].strip()
    if not answer:
        raise Unreadable("no answer")
    return read(prompt, answer)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and fields of every row."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 (byte {error.start}): save it as it was "
                          "downloaded, unzipped") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    found = []
    try:
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise SourceError(f"{path} has no column {', '.join(missing)} (columns: "
                              f"{', '.join(header)[:80] or 'none'}): it is not train.csv")
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                raise SourceError(f"{path}:{reader.line_num}: {len(fields)} fields where the "
                                  f"header has {len(header)}: the file is torn")
            found.append((reader.line_num, dict(zip(header, fields, strict=True))))
    except csv.Error as error:
        raise SourceError(f"{path}:{reader.line_num}: not CSV ({error})") from error
    return found


def _check_known(path: Path, source: Source) -> None:
    count = source.unread.total()
    if count > MAX_UNREAD * source.rows:
        reason, _ = source.unread.most_common(1)[0]
        raise SourceError(f"{path}: {count} of {source.rows} rows are in no known form (line "
                          f"{source.places[reason][0]}: {reason}): it is not the competition's "
                          "train.csv")
