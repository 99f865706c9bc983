"""A tiny random checkpoint of the Nemotron-H architecture, with the tiny model's tokenizer.

    python -m base.prepare --model tiny_nemotron_h --out DIR

Mamba-2, attention, MLP and mixture-of-experts layers in the hub's layout and names. The weights
are drawn from a fixed seed, not trained: it runs every code path of the large models in seconds
and answers nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

TOKENIZER = Path(__file__).with_name("tiny")
PATTERN = "ME*-ME"  # M: Mamba-2, E: mixture of experts, *: attention, -: MLP
DENSE = "M-*-M-"  # no experts: tensor parallelism above 1 on CPU needs that
SEED = 0
KINDS = {"M": "linear_attention", "E": "moe", "*": "full_attention", "-": "mlp"}


def make(out: Path, pattern: str = PATTERN, hidden: int = 64, experts: int = 4,
         chosen: int = 2, head: int = 16) -> None:
    """Write the checkpoint to the new folder `out`; the same bytes for the same torch.

    Args:
        hidden: width; heads and inner sizes grow with it, their dimensions do not.
        experts: routed ones a layer; chosen: of which a token goes to so many.
        head: width of an attention head; vLLM on CPU knows none below 32.
    """
    wide = hidden // 64
    from transformers import NemotronHConfig, NemotronHForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    config = NemotronHConfig(
        layers_block_type=[KINDS[letter] for letter in pattern],
        vocab_size=1536,  # of which the tokenizer uses 1505; even shards
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_attention_heads=64 * wide // head,
        num_key_value_heads=2,
        head_dim=head,
        mamba_num_heads=8 * wide,
        mamba_head_dim=16,
        ssm_state_size=16,
        n_groups=2,
        chunk_size=64,
        n_routed_experts=experts,
        num_experts_per_tok=chosen,
        moe_intermediate_size=hidden // 2,
        moe_shared_expert_intermediate_size=hidden,
        routed_scaling_factor=2.5,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(SEED)
    model = NemotronHForCausalLM(config)
    _spread(model)
    model.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, out / name)


@torch.no_grad()
def _spread(model: torch.nn.Module) -> None:
    """Give every vector a value of its own: ones and zeros would hide a name or shard mixed up."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith(("norm.weight", "norm_f.weight", ".D")):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith((".dt_bias", "conv1d.bias", "e_score_correction_bias")):
            tensor.add_(torch.empty_like(tensor).uniform_(-0.1, 0.1))
        elif "experts." in name or (name.endswith("weight") and tensor.ndim >= 2):
            tensor.mul_(3.0)  # far enough from linear that an error shows
