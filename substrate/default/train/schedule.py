"""Learning-rate schedules as pure functions of the step: a resumed run needs no state for them."""

from __future__ import annotations

import math
from typing import Any

WSD_DECAY = 0.2  # share of the run in which warmup-stable-decay comes down


def rate(options: dict[str, Any], step: int) -> float:
    """The learning rate of 0-based `step` under `options`, the recipe's `train` section."""
    shape = options["schedule"]
    peak: float = options["learning_rate"]
    return peak * factor(step, options["steps"], shape["shape"], shape["warmup"], shape["final"])


def factor(step: int, total: int, shape: str, warmup: float, final: float) -> float:
    """Multiplier of the peak learning rate for 0-based `step` of `total`.

    `warmup` (a fraction of the run) rises linearly to 1; then `shape` leads to `final` (a fraction
    of the peak): cosine and linear over the rest, wsd over the last fifth, constant not at all.

    Raises:
        ValueError: an unknown shape.
    """
    ramp = warmup * total
    if step < ramp:
        return (step + 1) / (math.floor(ramp) + 1)
    progress = (step - ramp) / max(1.0, total - ramp)  # 0 at the end of warmup, below 1 at the end
    if shape == "constant":
        return 1.0
    if shape == "cosine":
        remaining = 0.5 * (1.0 + math.cos(math.pi * progress))
    elif shape == "linear":
        remaining = 1.0 - progress
    elif shape == "wsd":
        left = (total - step) / max(1.0, WSD_DECAY * total)
        remaining = min(1.0, left)
    else:
        raise ValueError(f"schedule shape {shape!r}: cosine, linear, constant or wsd")
    return final + (1.0 - final) * remaining
