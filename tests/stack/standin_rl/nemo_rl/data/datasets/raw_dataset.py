from __future__ import annotations

from typing import Any


class RawDataset:
    task_name: str
    dataset: Any
    val_dataset: Any
