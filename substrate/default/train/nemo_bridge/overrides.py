"""From our recipe.yaml to the settings of a Megatron-Bridge recipe, as dotted names and values.

A recipe of NVIDIA's stays as it is but for what is listed here: what our recipe says, where things
lie, and what would make the trained loss another one than that of the other trainers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from train.nemo_bridge.family import BridgeError, Layout

STATE_STEPS = 10  # a step takes seconds: at most that many are lost
CLIP_OFF = 1e30  # 0 would leave the norm of the gradient unmeasured
TIMEOUT_MINUTES = 90  # of collectives, as in NVIDIA's example for Ultra

# Where mcore has the linear layers of the decoder. Patterns, not names: a name would reach `mtp.`
# and the routed experts (which by default share one adapter a rank in Megatron-Bridge), too.
PLACES = {
    "linear_qkv": "self_attention.linear_qkv",
    "linear_proj": "self_attention.linear_proj",
    "in_proj": "mixer.in_proj",
    "out_proj": "mixer.out_proj",
    "linear_fc1": "mlp.linear_fc1",
    "linear_fc2": "mlp.linear_fc2",
    "shared_experts.linear_fc1": "mlp.shared_experts.linear_fc1",
    "shared_experts.linear_fc2": "mlp.shared_experts.linear_fc2",
}


def patterns(leaves: Iterable[str]) -> list[str]:
    """Megatron-Bridge's `target_modules` for mcore's linear layers of these names."""
    return sorted(f"*decoder.layers.*.{PLACES[leaf]}" for leaf in leaves)


def overrides(train: Mapping[str, Any], layout: Layout, *, length: int, seed: int, base: Path,
              imported: Path, state: Path, targets: list[str]) -> dict[str, Any]:
    """Settings over those of the official recipe.

    Args:
        train: the `train` section of recipe.yaml.
        length: tokens of a row.
        imported: the base in megatron's format; state: where to save and to go on from.
        targets: patterns of the layers with adapters.
    """
    return {
        **_learning(train, targets),
        **_model(layout, length),
        **_loss(),
        **_saving(imported, state),
        "train.train_iters": train["steps"],
        "train.global_batch_size": train["batch_size"],
        "train.micro_batch_size": layout.micro_batch,
        "validation.eval_iters": 0,  # dev is scored by the evaluation alone
        "validation.eval_interval": None,
        "rng.seed": seed,
        "tokenizer.tokenizer_type": "HuggingFaceTokenizer",
        "tokenizer.tokenizer_model": str(base),
        "logger.tensorboard_dir": None,
        "logger.log_interval": 1,
        "dist.distributed_timeout_minutes": TIMEOUT_MINUTES,
    }


def _learning(train: Mapping[str, Any], targets: list[str]) -> dict[str, Any]:
    """The optimiser and the adapter. The rate is set at every step (driver.Recorder), so that a
    schedule means the same in every trainer; megatron's own stays constant."""
    optimizer, lora, rate = train["optimizer"], train["lora"], float(train["learning_rate"])
    decay = optimizer["weight_decay"]
    return {
        "optimizer.lr": rate,
        "optimizer.min_lr": 0.0,
        "optimizer.adam_beta1": optimizer["beta1"],
        "optimizer.adam_beta2": optimizer["beta2"],
        "optimizer.adam_eps": 1e-8,
        "optimizer.weight_decay": decay,
        "optimizer.clip_grad": float(optimizer["clip"] or CLIP_OFF),
        "scheduler.lr_decay_style": "constant",
        "scheduler.lr_warmup_iters": 0,
        "scheduler.lr_warmup_fraction": None,
        "scheduler.lr_decay_iters": train["steps"],
        "scheduler.start_weight_decay": decay,
        "scheduler.end_weight_decay": decay,
        "scheduler.weight_decay_incr_style": "constant",
        "peft.target_modules": targets,
        "peft.dim": lora["rank"],
        "peft.alpha": lora["alpha"],
        "peft.dropout": lora["dropout"],
        "peft.dropout_position": "pre",
        "peft.lora_A_init_method": "kaiming",  # as peft draws it
        "peft.lora_B_init_method": "zero",
    }


def _model(layout: Layout, length: int) -> dict[str, Any]:
    return {
        "model.tensor_model_parallel_size": layout.tensor,
        "model.pipeline_model_parallel_size": layout.pipeline,
        "model.context_parallel_size": 1,
        "model.expert_model_parallel_size": layout.expert,
        "model.expert_tensor_parallel_size": 1,  # above 1 LoRA on experts is wrong
        "model.sequence_parallel": layout.tensor > 1,  # megatron demands it of experts
        "model.seq_length": length,
        "model.attention_dropout": 0.0,
        "model.hidden_dropout": 0.0,
    }


def _loss() -> dict[str, Any]:
    """The loss of the other trainers: weighted mean over the learned tokens of the whole batch, no
    balancing of experts, no multi-token prediction; nothing of the base changes."""
    return {
        "model.calculate_per_token_loss": True,
        "model.moe_aux_loss_coeff": 0.0,
        # Otherwise the experts' bias, which no adapter can carry, drifts with every step.
        "model.moe_router_bias_update_rate": 0.0,
        "model.moe_shared_expert_overlap": False,  # with it LoRA is wrong at tensor > 1
        "model.mtp_num_layers": 0,
        "model.mtp_hybrid_override_pattern": None,
        "model.mtp_use_repeated_layer": False,  # it would make the layers in spite of 0
        # What is not finite ends the run as `diverged`, on every rank, by our own check.
        "ddp.check_for_nan_in_grad": False,
        "rerun_state_machine.check_for_nan_in_loss": False,
        # An adapter is exported right after a step: its parameters must be whole by then.
        "ddp.overlap_param_gather": False,
        "ddp.overlap_grad_reduce": False,
    }


def _saving(imported: Path, state: Path) -> dict[str, Any]:
    return {
        "checkpoint.pretrained_checkpoint": str(imported),
        "checkpoint.save": str(state),
        "checkpoint.load": str(state),
        "checkpoint.save_interval": STATE_STEPS,
        "checkpoint.most_recent_k": 2,
        "checkpoint.ckpt_format": "torch_dist",
        "checkpoint.fully_parallel_save": False,  # with LoRA these two lose adapters
        "checkpoint.async_save": False,
    }


def apply(config: Any, changes: Mapping[str, Any]) -> None:
    """Set the dotted names of `changes` on a recipe's configuration.

    Raises:
        BridgeError: it has no such setting, so this version of Megatron-Bridge is not one that this
            trainer was written for; nothing may be left at a value that nobody chose.
    """
    for name, value in changes.items():
        *sections, leaf = name.split(".")
        target = config
        for section in sections:
            target = getattr(target, section, None)
        if target is None or not hasattr(target, leaf):
            raise BridgeError(f"this Megatron-Bridge has no setting {name}; trainer=bridge was "
                              "written for 0.5 and 0.6")
        setattr(target, leaf, value)
