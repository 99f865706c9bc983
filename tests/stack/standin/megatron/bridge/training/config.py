"""As training/config.py of v0.5.1, with the fields that trainer=bridge sets and the values of
recipes/common.py `_peft_common`."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron.bridge.peft.lora import LoRA


@dataclass
class MambaModelProvider:
    """models/mamba/mamba_provider.py; parallel sizes and MTP as the recipes set them."""

    hidden_size: int
    num_layers: int
    tensor_model_parallel_size: int = 1
    pipeline_model_parallel_size: int = 1
    context_parallel_size: int = 1
    expert_model_parallel_size: int = 1
    expert_tensor_parallel_size: int | None = 1
    sequence_parallel: bool = True
    seq_length: int = 2048
    attention_dropout: float = 0.1
    hidden_dropout: float = 0.1
    calculate_per_token_loss: bool = True
    moe_aux_loss_coeff: float = 0.0001
    moe_router_bias_update_rate: float = 1e-3
    moe_shared_expert_overlap: bool = True
    mtp_num_layers: int | None = 2
    mtp_hybrid_override_pattern: str | None = "*E"
    mtp_use_repeated_layer: bool = True

    @classmethod
    def of(cls, path: Path) -> MambaModelProvider:
        raw = json.loads((path / "config.json").read_text())
        pattern = raw.get("hybrid_override_pattern") or raw["layers_block_type"]
        return cls(hidden_size=raw["hidden_size"], num_layers=len(pattern))


@dataclass
class TrainingConfig:
    train_iters: int = 1000
    global_batch_size: int = 128
    micro_batch_size: int = 1


@dataclass
class ValidationConfig:
    eval_interval: int | None = 100
    eval_iters: int = 32


@dataclass
class OptimizerConfig:
    lr: float = 1e-4
    min_lr: float | None = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.98
    adam_eps: float = 1e-5
    weight_decay: float = 0.1
    clip_grad: float = 1.0


@dataclass
class SchedulerConfig:
    lr_decay_style: str = "cosine"
    lr_warmup_iters: int = 50
    lr_warmup_fraction: float | None = None
    lr_decay_iters: int | None = None
    start_weight_decay: float = 0.033
    end_weight_decay: float = 0.033
    weight_decay_incr_style: str = "constant"


@dataclass
class DistributedDataParallelConfig:
    check_for_nan_in_grad: bool = True
    overlap_grad_reduce: bool = True
    overlap_param_gather: bool = True


@dataclass
class CheckpointConfig:
    pretrained_checkpoint: str | None = None
    save: str | None = "nemo_experiments/default/checkpoints"
    load: str | None = "nemo_experiments/default/checkpoints"
    save_interval: int = 100
    most_recent_k: int = -1
    ckpt_format: str = "torch_dist"
    fully_parallel_save: bool = True
    async_save: bool = True


@dataclass
class LoggerConfig:
    tensorboard_dir: str | None = "nemo_experiments/default/tb_logs"
    log_interval: int = 10


@dataclass
class TokenizerConfig:
    tokenizer_type: str = "HuggingFaceTokenizer"
    tokenizer_model: str | None = "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"


@dataclass
class RNGConfig:
    seed: int = 5678


@dataclass
class DistributedInitConfig:
    distributed_timeout_minutes: int = 10


@dataclass
class RerunStateMachineConfig:
    check_for_nan_in_loss: bool = True


@dataclass(kw_only=True)
class DataloaderConfig:
    dataloader_type: str | None = None
    num_workers: int = 2
    data_sharding: bool = True
    pin_memory: bool = True
    drop_last: bool = True
    persistent_workers: bool = True
    trust_remote_code: bool | None = None


@dataclass(frozen=True)
class DatasetBuildContext:
    train_samples: int
    valid_samples: int
    test_samples: int
    tokenizer: Any = None
    pg_collection: Any = None


@dataclass
class DatasetProvider(DataloaderConfig, ABC):
    @abstractmethod
    def build_datasets(self, context: DatasetBuildContext) -> tuple[Any, Any, Any]: ...


@dataclass(kw_only=True)
class ConfigContainer:
    model: Any
    train: TrainingConfig = field(default_factory=TrainingConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    ddp: DistributedDataParallelConfig = field(default_factory=DistributedDataParallelConfig)
    dataset: Any = None
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    rng: RNGConfig = field(default_factory=RNGConfig)
    dist: DistributedInitConfig = field(default_factory=DistributedInitConfig)
    rerun_state_machine: RerunStateMachineConfig = field(default_factory=RerunStateMachineConfig)
    peft: LoRA = field(default_factory=LoRA)
