"""The configuration of one task: NVIDIA's recipe, and over it what is ours, as nested mappings.

A recipe of NVIDIA's stays as it is but for what is listed here: what our recipe says, where things
lie, and what would make the trained loss another one than that of the other trainers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.nemo_rl.tasks import SAMPLED, SCRIPTS, NemoRlError, Task
from train.rl.plan import settings as rl_settings

CLIP_OFF = 1e30
STATE_STEPS = 10  # a step takes seconds to minutes: at most that many are lost
ENVIRONMENT, PROCESSOR = "puzzles", "rows"  # names under which NeMo-RL knows ours
RECIPES = {  # NVIDIA's LoRA recipes below examples/configs; DPO has none with LoRA for this family
    "nano": {
        "sft": "recipes/llm/sft-nanov3-30BA3B-2n8g-fsdp2-lora.yaml",
        "grpo": "recipes/llm/grpo-nanov3-30BA3B-2n8g-fsdp2-lora.yaml",
        "dpo": "dpo.yaml",
    },
}


@dataclass(frozen=True)
class Layout:
    """How a run is spread: `tensor` GPUs share each matrix in training, `generators` in vLLM (0: as
    in NVIDIA's recipe); sequence: most tokens of a row; micro_batch: rows a forward pass."""

    nodes: int
    gpus: int
    tensor: int
    generators: int
    sequence: int
    micro_batch: int

    @property
    def data(self) -> int:
        """Groups of GPUs that divide the rows of a batch.

        Raises:
            NemoRlError: the GPUs cannot be divided so.
        """
        total, tensor = self.nodes * self.gpus, self.tensor or 1
        if total % tensor:
            raise NemoRlError(f"{total} GPUs cannot be divided by tensor = {tensor}")
        return total // tensor


@dataclass(frozen=True)
class Places:
    """Where things lie: NeMo-RL's root, the base, a task's folder."""

    home: Path
    base: Path
    task: Path

    @property
    def checkpoints(self) -> Path:
        """Of NeMo-RL."""
        return self.task / "checkpoints"

    @property
    def rows(self) -> Path:
        """What the task learns from, or asks."""
        return self.task / "rows.jsonl"

    @property
    def answers(self) -> Path:
        """What the environment kept."""
        return self.task / "answers.jsonl"

    def script(self, task: Task) -> Path:
        """NVIDIA's script for a task."""
        return self.home / "examples" / f"run_{SCRIPTS[task.kind]}.py"


def recipe(family: str, task: Task) -> str:
    """NVIDIA's recipe for a task, below examples/configs.

    Raises:
        NemoRlError: there is none for the family.
    """
    if family not in RECIPES:
        raise NemoRlError(f"NeMo-RL has LoRA recipes for {', '.join(RECIPES)}, none for {family}; "
                          "use trainer=bridge")
    return RECIPES[family][SCRIPTS[task.kind]]


def patterns(modules: Iterable[str]) -> list[str]:
    """NeMo-RL's `target_modules` for modules such as `layers.4.mixer.in_proj`: whole ends of names,
    so that neither routed experts nor layers of another kind are reached."""
    return sorted({"*.mixer." + module.split(".mixer.", 1)[1] for module in modules})


def configuration(task: Task, train: Mapping[str, Any], layout: Layout, places: Places, *,
                  family: str, seed: int, targets: list[str], stop: list[int], max_new: int,
                  period: int) -> dict[str, Any]:
    """What goes over NVIDIA's recipe, with the recipe itself as `defaults`.

    Args:
        train: the `train` section of recipe.yaml.
        stop: ids that end an answer; max_new: most tokens of one.
        period: steps between two states.
    """
    rl, generates = rl_settings(dict(train)), task.kind in SAMPLED
    rows = task.rows * (int(rl["samples"]) if generates else 1)
    found: dict[str, Any] = {
        "defaults": str(places.home / "examples" / "configs" / recipe(family, task)),
        "policy": _policy(task, train, layout, places.base, rows, targets),
        "data": _data(task, places, layout),
        "checkpointing": {
            "enabled": task.learns, "checkpoint_dir": str(places.checkpoints),
            "metric_name": None, "keep_top_k": None, "save_period": period,
            "save_optimizer": True, "model_save_format": "safetensors",
        },
        "logger": {
            "log_dir": str(places.task / "logs"), "wandb_enabled": False,
            "tensorboard_enabled": False, "mlflow_enabled": False, "swanlab_enabled": False,
            "monitor_gpus": False,
        },
        "cluster": {"gpus_per_node": layout.gpus, "num_nodes": layout.nodes},
    }
    # The rows are as many as the run takes, in its order; dev is scored by the evaluation alone.
    course = {"max_num_epochs": 1, "max_num_steps": task.steps, "val_period": 0,
              "val_at_start": False, "val_at_end": False, "seed": seed}
    if SCRIPTS[task.kind] == "sft":
        found["sft"] = course
    elif task.kind == "dpo":
        found["dpo"] = course | {
            "reference_policy_kl_penalty": rl["beta"], "preference_loss_weight": 1,
            "sft_loss_weight": 0, "preference_average_log_probs": False,
        }
    else:
        found["grpo"] = course | {
            "num_prompts_per_step": task.rows, "num_generations_per_prompt": rl["samples"],
            "normalize_rewards": True, "use_leave_one_out_baseline": False,
            "skip_reference_policy_logprobs_calculation": not rl["kl"],
        }
        found["loss_fn"] = {
            "reference_policy_kl_penalty": rl["kl"], "ratio_clip_min": rl["clip"],
            "ratio_clip_max": rl["clip"], "token_level_loss": True,
        }
        found["env"] = {ENVIRONMENT: {
            "base": str(places.base), "max_new": max_new, "penalty": rl["length_penalty"],
            "answers": None if task.learns else str(places.answers),
        }}
        found["policy"]["logprob_batch_size"] = layout.micro_batch
        found["policy"]["generation"] = _generation(rl, layout, stop, max_new)
    return found


def _policy(task: Task, train: Mapping[str, Any], layout: Layout, base: Path, rows: int,
            targets: list[str]) -> dict[str, Any]:
    optimizer, lora = train["optimizer"], train["lora"]
    rl = rl_settings(dict(train))
    peak = rl["learning_rate"] if task.method in ("dpo", "grpo") else train["learning_rate"]
    parallel = {"tensor_parallel_size": layout.tensor} if layout.tensor else {}
    if task.kind == "dpo":  # as in NVIDIA's recipe for DPO of this model, which has no LoRA
        parallel["activation_checkpointing"] = True
    return {
        "model_name": str(base),
        "tokenizer": {"name": str(base), "chat_template": "default"},
        "train_global_batch_size": rows,
        "train_micro_batch_size": layout.micro_batch,
        "max_total_sequence_length": layout.sequence,
        "precision": "bfloat16",
        "max_grad_norm": float(optimizer["clip"] or CLIP_OFF),
        "dynamic_batching": {"enabled": False},
        "sequence_packing": {"enabled": False},
        "dtensor_cfg": parallel | {
            "_v2": True,  # LoRA asks for it
            "enabled": True,
            "automodel_kwargs": {"force_hf": True},  # as NVIDIA's recipes for Nemotron-H have it
            "lora_cfg": {
                "enabled": True, "target_modules": targets, "exclude_modules": [],
                "match_all_linear": False, "dim": lora["rank"], "alpha": lora["alpha"],
                "dropout": lora["dropout"], "dropout_position": "pre",
                "lora_A_init": "uniform",  # Kaiming, as peft draws it
                "use_triton": False,
            },
        },
        "optimizer": {"name": "torch.optim.AdamW", "kwargs": {
            "lr": float(peak) if task.learns else 0.0, "weight_decay": optimizer["weight_decay"],
            "betas": [optimizer["beta1"], optimizer["beta2"]], "eps": 1e-8, "foreach": False,
            "fused": False,
        }},
        # A list, as in NVIDIA's recipe for GRPO: omegaconf merges no mapping over one.
        "scheduler": [{"name": "train.nemo_rl.rates.Course", "kwargs": {
            "start": task.start, "train": {
                "learning_rate": float(peak), "schedule": dict(train["schedule"]),
                "steps": max(1, task.total),
            },
        }}, {"milestones": []}],
    }


def _data(task: Task, places: Places, layout: Layout) -> dict[str, Any]:
    """Our own class reads the rows, and our own processor gives their tokens as they are: what is
    learned is what every trainer learns, whatever a template makes of it there."""
    common: dict[str, Any] = {"prompt_file": None, "system_prompt_file": None}
    if task.kind != "dpo":
        common["processor"] = PROCESSOR
    if task.kind in SAMPLED:
        common["env_name"] = ENVIRONMENT
    rows: dict[str, Any] = {"dataset_name": "train.nemo_rl.inside.Rows",
                            "data_path": str(places.rows)}
    if task.kind in SAMPLED:
        rows["split_validation_size"] = 0
    return {"train": rows | common, "validation": None, "default": common, "shuffle": False,
            "num_workers": 0, "max_input_seq_length": layout.sequence}


def _generation(rl: Mapping[str, Any], layout: Layout, stop: list[int],
                max_new: int) -> dict[str, Any]:
    parallel = {"tensor_parallel_size": layout.generators} if layout.generators else {}
    return {
        "backend": "vllm", "temperature": rl["temperature"], "top_p": 1.0, "top_k": None,
        "max_new_tokens": max_new, "stop_token_ids": stop,
        "vllm_cfg": parallel | {"max_model_len": layout.sequence},
    }
