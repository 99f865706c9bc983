"""Mixture of experts without a hard-coded CUDA device: router and dispatcher.

megatron-core allocates the router's buffers and the expert-parallel communication buffers on the
current CUDA device. These subclasses put them where their inputs are and change nothing else.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.moe.token_dispatcher import MoEAllGatherTokenDispatcher
from torch import Tensor

from train.mcore.collectives import gather, joined, scatter_sum


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


class Dispatcher(MoEAllGatherTokenDispatcher):
    """The all-gather dispatcher, its communication on the tensors' own device."""

    routing_map: Tensor

    def token_dispatch(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens, probabilities and routing of all ranks of the expert group."""
        if self.tp_size == 1 and self.ep_size == 1:
            return hidden_states, probs
        with torch.no_grad():  # gloo gathers no booleans
            routing = joined(self.routing_map.to(torch.uint8), self.tp_ep_group)
            self.routing_map = routing.bool()
        return gather(hidden_states, self.tp_ep_group), gather(probs, self.tp_ep_group)

    def token_combine(self, hidden_states: Tensor) -> Tensor:
        """Experts' outputs summed over ranks, each rank keeping its own tokens."""
        if self.tp_size == 1 and self.ep_size == 1:
            return hidden_states
        summed = scatter_sum(hidden_states.to(self.local_probs.dtype), self.tp_ep_group)
        return summed.to(hidden_states.dtype)


def use_own_dispatcher(layer: MoELayer, pg_collection: Any) -> None:
    """Give a built layer that dispatcher: mcore chooses among its own by name."""
    layer.token_dispatcher = Dispatcher(
        layer.num_local_experts, layer.local_expert_indices, config=layer.config,
        pg_collection=pg_collection,
    )
