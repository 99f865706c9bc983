"""What DPO and GRPO minimise; RFT has the loss of SFT.

GRPO: each token's ratio to the policy that wrote it, clipped, times the answer's advantage within
its group; mean over tokens (as in DAPO), plus `kl` times Schulman's k3 estimate of the distance to
the reference. DPO: -log sigmoid of beta times how much more than the reference the right answer of
a pair is preferred to the wrong one. Both weigh rows as SFT does (train.loss.domain_weights).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor

from train.batching import Batch
from train.model import learned


@dataclass(frozen=True)
class Judged(Batch):
    """A batch of sampled answers, learned at their own tokens.

    advantages: (rows,). old, reference: (rows, length - 1) log-probabilities of `ids[:, 1:]` under
    the policy that sampled, and under the reference; None where nothing asks for them. For DPO even
    rows are right answers, each followed by a wrong one to the same prompt.
    """

    method: str = "grpo"
    advantages: Tensor | None = None
    old: Tensor | None = None
    reference: Tensor | None = None


def log_probabilities(model: PeftModel, batch: Batch, temperature: float) -> Tensor:
    """(rows, length - 1): of `ids[:, 1:]` where they are learned, else 0."""
    logits, targets, at = learned(model, batch)
    each = -F.cross_entropy(logits.float() / temperature, targets, reduction="none")
    rows, length = batch.ids.shape
    flat = torch.zeros(rows * (length - 1), device=each.device)
    return flat.index_put((at,), each).view(rows, length - 1)


def loss(model: PeftModel, batch: Judged, rl: dict[str, Any]) -> Tensor:
    """The loss of a batch; `rl` are the recipe's settings."""
    if batch.method == "dpo":
        return dpo(log_probabilities(model, batch, 1.0), batch, rl["beta"])
    return grpo(log_probabilities(model, batch, rl["temperature"]), batch, rl["clip"], rl["kl"])


def dpo(now: Tensor, batch: Judged, beta: float) -> Tensor:
    """Weighted mean over pairs."""
    assert batch.reference is not None
    gained = (now - batch.reference.to(now.device)).sum(1)
    weights = batch.weights[::2, 0].to(now.device)
    each = -F.logsigmoid(beta * (gained[::2] - gained[1::2]))
    return (each * weights).sum() / weights.sum().clamp_min(1e-8)


def grpo(now: Tensor, batch: Judged, clip: float, kl: float) -> Tensor:
    """Weighted mean over tokens."""
    assert batch.advantages is not None
    device = now.device
    old = now.detach() if batch.old is None else batch.old.to(device)
    ratio, advantage = (now - old).exp(), batch.advantages.to(device)[:, None]
    each = -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    if kl and batch.reference is not None:
        apart = batch.reference.to(device) - now
        each = each + kl * (apart.exp() - apart - 1)
    weights = (batch.labels[:, 1:] >= 0).to(device) * batch.weights[:, 1:].to(device)
    return (each * weights).sum() / weights.sum().clamp_min(1e-8)
