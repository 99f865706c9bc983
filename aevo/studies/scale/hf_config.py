"""The architecture that a checkpoint's config.json tells of, as transformers or the hub has it."""

import json
from pathlib import Path

from pydantic import ValidationError

from aevo.errors import ConfigError
from aevo.files.documents import Foreign, problems
from aevo.studies.scale.architecture import Architecture, Experts, Mamba

KINDS = {
    "linear_attention": "M",
    "mamba": "M",
    "full_attention": "*",
    "attention": "*",
    "moe": "E",
    "mlp": "-",
}


class _Config(Foreign):
    """What is read of a config.json, by its names."""

    model_type: str
    hidden_size: int
    vocab_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool = False
    dtype: str | None = None
    torch_dtype: str | None = None
    num_hidden_layers: int | None = None
    intermediate_size: int | None = None
    hybrid_override_pattern: str | None = None
    layers_block_type: list[str] | None = None
    num_nextn_predict_layers: int | None = None
    mtp_hybrid_override_pattern: str | None = None
    mtp_layers_block_type: list[str] | None = None
    mamba_num_heads: int | None = None
    mamba_head_dim: int = 64
    ssm_state_size: int = 128
    n_groups: int = 8
    conv_kernel: int = 4
    chunk_size: int = 128
    n_routed_experts: int | None = None
    num_experts_per_tok: int = 1
    moe_intermediate_size: int = 0
    moe_shared_expert_intermediate_size: int = 0
    n_shared_experts: int = 1
    moe_latent_size: int | None = None


def read(folder: Path) -> Architecture:
    """From the config.json of a checkpoint.

    Raises:
        ConfigError: there is none, or it is not of a family whose weights are known here.
    """
    path = folder / "config.json"
    try:
        config = _Config.model_validate(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        what = problems(error) if isinstance(error, ValidationError) else str(error)
        raise ConfigError(f"{path}: {what}") from error
    if config.model_type == "llama":
        pattern = "*-" * (config.num_hidden_layers or 0)
    elif config.model_type == "nemotron_h":
        pattern = config.hybrid_override_pattern or _letters(config.layers_block_type)
    else:
        raise ConfigError(
            f"{path}: model_type {config.model_type} is not one whose weights are known here",
            "known are llama and nemotron_h",
        )
    mtp = (
        config.mtp_hybrid_override_pattern or _letters(config.mtp_layers_block_type)
        if config.num_nextn_predict_layers
        else ""
    )
    return _architecture(config, folder.name, pattern, mtp, str(path))


def _architecture(config: _Config, name: str, pattern: str, mtp: str, source: str) -> Architecture:
    kinds = pattern + mtp
    return Architecture(
        name=name,
        family="llama" if config.model_type == "llama" else "nemotron_h",
        pattern=pattern,
        mtp=mtp,
        mtp_passes=2 if mtp else 0,
        hidden=config.hidden_size,
        vocab=config.vocab_size,
        tied=config.tie_word_embeddings,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        ffn=config.intermediate_size if "-" in kinds else None,
        mamba=None
        if "M" not in kinds
        else Mamba(
            heads=config.mamba_num_heads or 0,
            head_dim=config.mamba_head_dim,
            state=config.ssm_state_size,
            groups=config.n_groups,
            conv=config.conv_kernel,
            chunk=config.chunk_size,
        ),
        experts=None
        if "E" not in kinds
        else Experts(
            count=config.n_routed_experts or 0,
            active=config.num_experts_per_tok,
            ffn=config.moe_intermediate_size,
            latent=config.moe_latent_size,
            shared_ffn=config.moe_shared_expert_intermediate_size * config.n_shared_experts,
        ),
        dtype="float32" if (config.dtype or config.torch_dtype) == "float32" else "bfloat16",
        source=source,
    )


def _letters(kinds: list[str] | None) -> str:
    return "".join(KINDS.get(kind, "?") for kind in kinds or [])
