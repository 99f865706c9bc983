"""What trainer=nemo_rl needs of Hugging Face's datasets: rows of a JSON file, another column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Dataset:
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def add_column(self, name: str, values: list[Any]) -> Dataset:
        return Dataset([row | {name: value} for row, value in zip(self.rows, values, strict=True)])


def load_dataset(kind: str, data_files: str) -> dict[str, Dataset]:
    assert kind == "json"
    rows = [json.loads(line) for line in Path(data_files).read_text().splitlines()]
    return {"train": Dataset(rows)}
