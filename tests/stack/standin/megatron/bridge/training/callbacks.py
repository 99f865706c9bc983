"""As training/callbacks.py of v0.5.1, for the events that are used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class CallbackContext:
    state: Any
    model: list[Any]
    user_state: dict[str, Any] = field(default_factory=dict)
    optimizer: Any = None
    scheduler: Any = None
    loss_dict: dict[str, Any] | None = None
    grad_norm: float | None = None
    skipped_iter: bool | None = None


class Callback:
    def on_train_start(self, context: CallbackContext) -> None: ...
    def on_train_step_start(self, context: CallbackContext) -> None: ...
    def on_train_step_end(self, context: CallbackContext) -> None: ...
    def on_train_end(self, context: CallbackContext) -> None: ...
