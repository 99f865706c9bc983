"""Activations that are computed anew in the backward pass instead of being kept.

`selective`: what is large and cheap to compute, Mamba's convolution and scan and the inside of the
routed experts. `full`: of each layer only its input is kept, at the price of a second forward pass.
Neither changes what is learned; dropout draws the same numbers again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

CHOICES = ("none", "selective", "full")


def recomputed(wanted: bool, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`; where `wanted`, its inside is not kept for the backward pass."""
    if not (wanted and torch.is_grad_enabled()):
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False)
