"""Files of an evaluation: items in, predictions and what they were made from out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

from eval.errors import EvaluationError

Rows = list[dict[str, Any]]


def read_items(path: Path) -> Rows:
    """Items as `python -m eval.items` writes them.

    Raises:
        EvaluationError: missing, empty, or a row lacks a field.
    """
    return read_rows(path, {"id", "domain", "prompt", "answer"}, EvaluationError, "items")


def read_rows(path: Path, fields: Set[str], mistake: type[ValueError], what: str = "rows") -> Rows:
    """JSON objects, one a line, each with at least these fields.

    Raises:
        mistake: missing, empty, or a row lacks a field; one line.
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise mistake(f"{path}: {error}") from error
    if not rows:
        raise mistake(f"{path}: no {what}")
    for number, row in enumerate(rows, 1):
        missing = fields - set(row if isinstance(row, dict) else ())
        if missing:
            raise mistake(f"{path}:{number}: lacks {', '.join(sorted(missing))}")
    return rows


def finished(out: Path, name: str, key: Mapping[str, Any], items: Rows) -> Rows | None:
    """Predictions of an earlier process for exactly this adapter, base and item set, if whole."""
    try:
        found = json.loads(key_path(out, name).read_text(encoding="utf-8"))
        text = (out / f"{name}.predictions.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
        same = found == key and [r["id"] for r in rows] == [i["id"] for i in items]
    except (OSError, ValueError, KeyError):
        return None
    return rows if same else None


def key_path(out: Path, name: str) -> Path:
    """Says what the predictions were made from; written after them."""
    return out / f"{name}.key.json"


def lines_of(rows: Iterable[dict[str, Any]]) -> str:
    """JSON, one row a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(path: Path, text: str, mode: int = 0o666) -> None:
    """Writes a file whole or not at all, and on disk when this returns.

    Args:
        mode: permissions, less the umask; the file never has others.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.touch(mode)
    with temporary.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def save(out: Path, name: str, key: Mapping[str, Any], rows: Rows) -> None:
    """Writes an adapter's predictions, then what they were made from."""
    write(out / f"{name}.predictions.jsonl", lines_of(rows))
    write(key_path(out, name), lines_of([dict(key)]))
