"""Files of an evaluation: items in, predictions and what they were made from out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eval.errors import EvaluationError

Rows = list[dict[str, Any]]


def read_items(path: Path) -> Rows:
    """Items as `python -m eval.items` writes them.

    Raises:
        EvaluationError: missing, empty, or a row lacks a field.
    """
    try:
        items = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: {error}") from error
    if not items:
        raise EvaluationError(f"{path}: no items")
    for number, item in enumerate(items, 1):
        missing = {"id", "domain", "prompt", "answer"} - set(item)
        if missing:
            raise EvaluationError(f"{path}:{number}: lacks {', '.join(sorted(missing))}")
    return items


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


def write(path: Path, text: str) -> None:
    """Writes a file whole or not at all, and on disk when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def save(out: Path, name: str, key: Mapping[str, Any], rows: Rows) -> None:
    """Writes an adapter's predictions, then what they were made from."""
    write(out / f"{name}.predictions.jsonl", lines_of(rows))
    write(key_path(out, name), lines_of([dict(key)]))
