"""The hybrid stack as megatron-core ModuleSpecs: the `local` layers, none that needs CUDA or TE.

Norms and linear layers are apart (not fused as in Transformer Engine), so a LoRA wrapper around a
linear layer sees the layer's true input.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.ssm.mamba_block import MambaStack, MambaStackSubmodules
from megatron.core.ssm.mamba_layer import MambaLayer, MambaLayerSubmodules
from megatron.core.ssm.mlp_layer import MLPLayer
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor, nn

from train.mcore.experts import Router, use_own_dispatcher
from train.mcore.grouped import GroupedExperts
from train.mcore.linears import Column, Row
from train.mcore.mixer import MambaMixerSubmodules, TorchMambaMixer
from train.mcore.packing import Packing
from train.mcore.recompute import recomputed


class SDPACoreAttention(MegatronModule):
    """Causal attention by torch's scaled_dot_product_attention (flash kernels on CUDA).

    megatron-core's DotProductAttention allocates its scratch buffer on the CUDA device.
    """

    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        **_: Any,
    ) -> None:
        super().__init__(config=config)
        self.scale = softmax_scale
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        packed_seq_params: Packing | None = None,
        **_: Any,
    ) -> Tensor:
        """query: (length, batch, heads, head_dim), key and value with their own heads."""
        q, k, v = (t.permute(1, 2, 0, 3) for t in (query, key, value))
        mask = None if packed_seq_params is None else packed_seq_params.mask
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=self.scale, enable_gqa=True,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return out.permute(2, 0, 1, 3).flatten(2).contiguous()


class Norm(nn.RMSNorm):
    """RMSNorm in the model's precision. megatron-core's wrapper of it refuses a sequence shard,
    whose weight gradients it would have to sum over ranks; a frozen norm has none."""

    def __init__(self, config: Any, hidden_size: int, eps: float | None = None) -> None:
        super().__init__(hidden_size, eps or config.layernorm_epsilon, dtype=config.params_dtype)


class TorchStack(MambaStack):
    """MambaStack with a torch norm at its end (mcore's is Transformer Engine's), experts that talk
    to each other on their tensors' device, and layers that may be computed anew."""

    def __init__(self, config: Any, submodules: MambaStackSubmodules, recompute: bool = False,
                 **rest: Any) -> None:
        super().__init__(config, submodules, **rest | {"post_layer_norm": False})
        self.post_layer_norm, self.recompute = True, recompute
        for layer in self.layers:
            if isinstance(getattr(layer, "mlp", None), MoELayer):
                use_own_dispatcher(layer.mlp, rest["pg_collection"])
        if self.post_process:
            self.final_norm = Norm(config, config.hidden_size)

    def forward(self, hidden_states: Tensor | None, attention_mask: None = None,
                packed_seq_params: Packing | None = None, **_: Any) -> Tensor:
        """hidden_states: (length or its share, rows, hidden), None after the first stage."""
        states: Any = hidden_states if self.pre_process else self.input_tensor
        for layer in self.layers:
            states = recomputed(self.recompute, _through, layer, states, packed_seq_params)
        out: Tensor = self.final_norm(states) if self.post_process else states
        return out


def _through(layer: nn.Module, states: Tensor, packing: Packing | None) -> Tensor:
    """A layer's output alone; some of megatron-core's give a context, too."""
    out: Any = layer(hidden_states=states, attention_mask=None, packed_seq_params=packing)
    first: Tensor = out[0] if isinstance(out, tuple) else out
    return first


def stack_spec(chunk: int, recompute: str = "none") -> ModuleSpec:
    """The stack's layers.

    Args:
        chunk: the Mamba scan's; recompute: one of train.mcore.recompute.CHOICES.
    """
    selective = recompute == "selective"
    linears = MLPSubmodules(linear_fc1=Column, linear_fc2=Row)
    mixer = ModuleSpec(
        module=TorchMambaMixer, params={"chunk_size": chunk, "recompute": selective},
        submodules=MambaMixerSubmodules(in_proj=Column, out_proj=Row),
    )
    attention = ModuleSpec(
        module=SelfAttention, params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=Column, core_attention=SDPACoreAttention, linear_proj=Row,
        ),
    )
    experts = ModuleSpec(module=MoELayer, submodules=MoESubmodules(
        experts=ModuleSpec(module=GroupedExperts, params={"recompute": selective}),
        shared_experts=ModuleSpec(module=SharedExpertMLP, submodules=linears),
        router=Router,
    ))
    whole = {"recompute": recompute == "full"}
    return ModuleSpec(module=TorchStack, params=whole, submodules=MambaStackSubmodules(
        mamba_layer=ModuleSpec(module=MambaLayer, submodules=MambaLayerSubmodules(
            norm=Norm, mixer=mixer, mamba_bda=get_bias_dropout_add)),
        attention_layer=ModuleSpec(module=TransformerLayer, submodules=TransformerLayerSubmodules(
            input_layernorm=Norm, self_attention=attention,
            self_attn_bda=get_bias_dropout_add)),
        mlp_layer=ModuleSpec(module=MLPLayer, submodules=TransformerLayerSubmodules(
            pre_mlp_layernorm=Norm,
            mlp=ModuleSpec(module=MLP, submodules=linears), mlp_bda=get_bias_dropout_add)),
        moe_layer=ModuleSpec(module=TransformerLayer, submodules=TransformerLayerSubmodules(
            pre_mlp_layernorm=Norm, mlp=experts, mlp_bda=get_bias_dropout_add)),
    ))
