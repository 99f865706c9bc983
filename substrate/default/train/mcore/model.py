"""From a Nemotron-H checkpoint in Hugging Face layout to this rank's part of an mcore model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.activations import squared_relu
from megatron.core.models.mamba import MambaModel
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from transformers import AutoConfig

from train.mcore.collectives import gather, own
from train.mcore.layout import Layout, LayoutError
from train.mcore.packing import Packing
from train.mcore.specs import stack_spec
from train.peft_format import ModelError

SUPPORTED: dict[str, tuple[Any, ...]] = {
    "model_type": ("nemotron_h",),
    "mlp_hidden_act": ("relu2",),
    "mamba_hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_bias": (False,),
    "mamba_proj_bias": (False,),
    "use_conv_bias": (True,),
    "tie_word_embeddings": (False,),
    "sliding_window": (None,),
    "norm_topk_prob": (True,),
    "n_group": (1,),
    "moe_latent_size": (None,),
}


def read_config(base: Path) -> Any:
    """The checkpoint's configuration, as transformers reads it.

    Raises:
        ModelError: not a model folder, or one that this trainer does not compute exactly.
    """
    try:
        config = AutoConfig.from_pretrained(base)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{base}: {' '.join(str(error).split())[:300]}") from error
    for key, values in SUPPORTED.items():
        if getattr(config, key, None) not in values:
            raise ModelError(
                f"{base}: {key}={getattr(config, key, None)!r}, trainer=megatron computes "
                f"{' or '.join(map(repr, values))}; use trainer=peft"
            )
    return config


def mcore_config(config: Any, layout: Layout) -> TransformerConfig:
    """Megatron's configuration of the same model.

    Raises:
        LayoutError: the parallel sizes do not divide the model.
    """
    _divides(config, layout)
    pattern = config.hybrid_override_pattern
    moe: dict[str, Any] = {}
    if "E" in pattern:
        moe = {
            "num_moe_experts": config.n_routed_experts,
            "moe_router_topk": config.num_experts_per_tok,
            "moe_ffn_hidden_size": config.moe_intermediate_size,
            "moe_shared_expert_intermediate_size": (
                config.moe_shared_expert_intermediate_size * config.n_shared_experts
            ),
            "moe_shared_expert_overlap": False,  # with it LoRA is wrong at tensor > 1
            "moe_router_score_function": "sigmoid",
            "moe_router_enable_expert_bias": True,
            "moe_router_topk_scaling_factor": config.routed_scaling_factor,
            "moe_router_dtype": "fp32",
            "moe_router_load_balancing_type": "none",
            "moe_token_dispatcher_type": "allgather",  # replaced by train.mcore.experts' own
            "moe_grouped_gemm": False,
        }
    return TransformerConfig(
        num_layers=len(pattern),
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_query_groups=config.num_key_value_heads,
        kv_channels=config.head_dim,
        mamba_num_heads=config.mamba_num_heads,
        mamba_head_dim=config.mamba_head_dim,
        mamba_state_dim=config.ssm_state_size,
        mamba_num_groups=config.n_groups,
        normalization="RMSNorm",
        layernorm_epsilon=config.layer_norm_epsilon,
        activation_func=squared_relu,
        add_bias_linear=False,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        expert_model_parallel_size=layout.expert,
        expert_tensor_parallel_size=1,
        sequence_parallel=sequence_parallel(config, layout),
        pipeline_dtype=layout.dtype,
        params_dtype=layout.dtype,
        bf16=layout.precision == "bf16",
        use_cpu_initialization=True,
        perform_initialization=False,  # every weight comes from the checkpoint, which is checked
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
        **moe,
    )


def sequence_parallel(config: Any, layout: Layout) -> bool:
    """Whether activations between layers are split along the sequence: megatron demands it of a
    mixture of experts at tensor > 1."""
    return layout.tensor > 1 and "E" in config.hybrid_override_pattern


def build(config: Any, layout: Layout) -> MambaModel:
    """This rank's part of the model, on CPU, its weights not set."""
    model = MambaModel(
        mcore_config(config, layout),
        stack_spec(config.chunk_size, layout.recompute),
        vocab_size=config.vocab_size,
        max_sequence_length=config.max_position_embeddings,
        hybrid_override_pattern=config.hybrid_override_pattern,
        position_embedding_type="none",
        scatter_embedding_sequence_parallel=False,  # `hidden` does it
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
    )
    if model.post_process:  # `token_losses` gathers the sequence, and only where it is learned
        model.output_layer.sequence_parallel = False
    return model


def hidden(model: MambaModel, ids: Tensor, segments: Tensor | None) -> Tensor:
    """Hidden states (length, rows, hidden) after this stage's layers; a stage that is not the
    first takes what `model.set_input_tensor` was given."""
    embedded = _embedded(model, ids) if model.pre_process else None
    packing = None if segments is None else Packing.of(segments)
    out: Tensor = model.decoder(
        hidden_states=embedded, attention_mask=None, packed_seq_params=packing
    )
    return out


def token_losses(model: MambaModel, states: Tensor, targets: Tensor, at: Tensor) -> Tensor:
    """Cross-entropy at the flat positions `at` of (rows, length), over the sharded vocabulary.

    Args:
        states: (length, rows, hidden), or a sequence shard of it; targets: (len(at)).
    """
    rows = _whole(model, states).transpose(0, 1).flatten(0, 1)[at]
    logits, _ = model.output_layer(rows[:, None])
    losses: Tensor = tensor_parallel.vocab_parallel_cross_entropy(
        logits.float(), targets[:, None]
    )
    return losses[:, 0]


def _embedded(model: MambaModel, ids: Tensor) -> Tensor:
    """(length, rows, hidden), or a sequence shard of it. megatron-core's own embedding layer drops
    out by CUDA's generators even where nothing is dropped."""
    whole: Tensor = model.embedding.word_embeddings(ids).transpose(0, 1).contiguous()
    split = model.config.sequence_parallel
    return own(whole, parallel_state.get_tensor_model_parallel_group()) if split else whole


def _whole(model: MambaModel, states: Tensor) -> Tensor:
    """All of the sequence, of which the output layer gives every rank the whole gradient."""
    if not model.config.sequence_parallel:
        return states
    return gather(states, parallel_state.get_tensor_model_parallel_group(), partial=False)


@torch.no_grad()
def logits(model: MambaModel, ids: Tensor, segments: Tensor | None = None) -> Tensor:
    """Logits (rows, length, vocabulary shard) of a model in one stage; for checks."""
    states = _whole(model, hidden(model, ids, segments))
    out, _ = model.output_layer(states)
    return out.transpose(0, 1).contiguous()


def _divides(config: Any, layout: Layout) -> None:
    pattern = config.hybrid_override_pattern
    sizes = {"vocab_size": config.vocab_size}
    if "M" in pattern:
        sizes |= {"mamba_num_heads": config.mamba_num_heads, "n_groups": config.n_groups}
    if "*" in pattern:
        sizes["num_key_value_heads"] = config.num_key_value_heads
    if "-" in pattern:
        sizes["intermediate_size"] = config.intermediate_size
    for name, size in sizes.items():
        if size % layout.tensor:
            raise LayoutError(f"tensor = {layout.tensor} does not divide {name} = {size}")
    if len(pattern) % layout.pipeline:
        raise LayoutError(
            f"pipeline = {layout.pipeline} does not divide the {len(pattern)} layers"
        )
    if layout.expert > 1 and ("E" not in pattern or config.n_routed_experts % layout.expert):
        count = config.n_routed_experts if "E" in pattern else 0
        raise LayoutError(f"expert = {layout.expert} does not divide {count} routed experts")
