"""Mixture of experts without a hard-coded CUDA device: router and dispatcher.

megatron-core allocates the router's buffers and those of expert-parallel communication on the
current CUDA device. These put them where their inputs are, so that CPU and CUDA run the same code.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.moe.moe_utils import permute, unpermute
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.moe.token_dispatcher import MoETokenDispatcher
from torch import Tensor

from train.mcore.collectives import exchange, exchanged


class Router(TopKRouter):
    """TopKRouter whose buffers live with its weight."""

    def __init__(self, config: Any, pg_collection: Any = None) -> None:
        without = copy.copy(config)
        without.moe_router_enable_expert_bias = False
        super().__init__(config=without, pg_collection=pg_collection)
        self.config = config
        self.enable_expert_bias = config.moe_router_enable_expert_bias
        if self.enable_expert_bias:
            zeros = torch.zeros(config.num_moe_experts, dtype=torch.float32)
            del self.local_tokens_per_expert, self.expert_bias  # plain attributes, None
            self.register_buffer("local_tokens_per_expert", zeros.clone(), persistent=False)
            self.register_buffer("expert_bias", zeros)

    def gating(self, input: Tensor) -> Tensor:
        """Scores of the experts, in the router's own precision."""
        kinds = {"fp32": torch.float32, "fp64": torch.float64}
        dtype = kinds.get(self.config.moe_router_dtype, input.dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        return F.linear(input.to(dtype), self.weight.to(dtype), bias)


class Dispatcher(MoETokenDispatcher):
    """Tokens to the ranks of their experts and back, by all-to-all; no token is dropped.

    megatron-core's own dispatcher of this kind makes a CUDA stream; its all-gather one sends every
    token to every rank. Expert tensor parallelism is 1. The methods are called in this order.
    """

    def __init__(self, local_experts: int, config: Any, pg_collection: Any) -> None:
        super().__init__(config=config, pg_collection=pg_collection)
        self.local_experts = local_experts

    def dispatch_preprocess(self, tokens: Tensor, routing_map: Tensor,
                            probs: Tensor) -> tuple[Tensor, Tensor]:
        """A copy of each token for each of its experts, and its probability, sorted by expert.

        Args:
            tokens: (length, rows, hidden); routing_map, probs: (length * rows, experts).
        """
        self.shape, self.counts = tokens.shape, routing_map.sum(0)
        flat = tokens.reshape(-1, tokens.shape[-1])
        copies = flat.shape[0] * self.config.moe_router_topk
        rows, chances, self.places = permute(flat, routing_map, probs, num_out_tokens=copies)
        return rows, chances

    def token_dispatch(self, rows: Tensor, chances: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of this rank's experts, of all ranks, one rank after the other."""
        by_rank = self.counts.view(self.ep_size, self.local_experts)
        if self.ep_size == 1:
            self.arrived = by_rank
            return rows, chances
        ones = [1] * self.ep_size
        self.arrived = exchanged(by_rank, ones, ones, self.ep_group)
        self.sent, self.received = torch.stack([by_rank.sum(1), self.arrived.sum(1)]).tolist()
        return (exchange(rows, self.sent, self.received, self.ep_group),
                exchange(chances, self.sent, self.received, self.ep_group))

    def dispatch_postprocess(self, rows: Tensor, chances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows and probabilities sorted by local expert, and how many each expert has."""
        if self.ep_size == 1:
            return rows, self.counts, chances
        experts = torch.arange(self.local_experts, device=rows.device).repeat(self.ep_size)
        owners = experts.repeat_interleave(self.arrived.flatten(), output_size=len(rows))
        self.order = owners.argsort(stable=True)
        return rows[self.order], self.arrived.sum(0), chances[self.order]

    def combine_preprocess(self, rows: Tensor) -> Tensor:
        """Experts' outputs back in the order in which their rows arrived."""
        if self.ep_size == 1:
            return rows
        return torch.empty_like(rows).index_copy(0, self.order, rows)

    def token_combine(self, rows: Tensor) -> Tensor:
        """Outputs back at the ranks that sent the rows."""
        if self.ep_size == 1:
            return rows
        return exchange(rows, self.received, self.sent, self.ep_group)

    def combine_postprocess(self, rows: Tensor) -> Tensor:
        """The sum of each token's outputs, (length, rows, hidden)."""
        flat = torch.Size([self.shape[0] * self.shape[1], self.shape[2]])
        out: Tensor = unpermute(rows, self.places, restore_shape=flat)
        return out.view(self.shape)


def use_own_dispatcher(layer: MoELayer, pg_collection: Any) -> None:
    """Give a built layer that dispatcher: mcore chooses among its own by name."""
    layer.token_dispatcher = Dispatcher(layer.num_local_experts, layer.config, pg_collection)
