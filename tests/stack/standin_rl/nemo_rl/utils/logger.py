from __future__ import annotations

from pathlib import Path
from typing import Any


class Logger:
    def __init__(self, cfg: dict[str, Any]) -> None:
        on = ("wandb", "tensorboard", "mlflow", "swanlab")
        assert not any(cfg[f"{name}_enabled"] for name in on) and not cfg["monitor_gpus"]
        Path(cfg["log_dir"]).mkdir(parents=True, exist_ok=True)

    def log_metrics(
        self,
        metrics: dict[str, Any],
        step: int,
        prefix: str | None = "",
        step_metric: str | None = None,
        step_finished: bool = False,
    ) -> None: ...
