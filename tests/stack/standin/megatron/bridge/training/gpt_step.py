"""The forward step that finetune is given."""

from __future__ import annotations

from typing import Any


def forward_step(
    state: Any, data_iterator: Any, model: Any, return_schedule_plan: bool = False
) -> Any:
    raise NotImplementedError("the stand-in's loop goes through train.mcore.pipeline")
