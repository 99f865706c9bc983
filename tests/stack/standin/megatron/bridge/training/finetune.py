"""As training/{finetune,pretrain,setup,train,checkpointing}.py of v0.5.1 do it, in that order."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from megatron.bridge.training.callbacks import Callback, CallbackContext
from megatron.bridge.training.config import DatasetBuildContext
from megatron.core import parallel_state
from torch.utils.data import DataLoader
from train.mcore import layout, lora, model, weights
from train.mcore.lora import Adapted, LoRALinear
from train.mcore.names import HF_NAMES, mamba_rows
from train.mcore.pipeline import Micro, forward_backward

RUNNING: dict[int, Run] = {}


def finetune(config: Any, forward_step_func: Any, callbacks: list[Callback] | None = None) -> None:
    from megatron.bridge.training.gpt_step import forward_step

    assert forward_step_func is forward_step
    _validate(config)
    if log := os.environ.get("STANDIN_LOG"):
        settings = {name: asdict(part) for name, part in vars(config).items()}
        Path(log).write_text(json.dumps(settings))
    created = not dist.is_initialized()
    device = layout.start(
        layout.Layout(
            config.model.tensor_model_parallel_size,
            config.model.pipeline_model_parallel_size,
            config.model.expert_model_parallel_size,
        )
    )
    assert device.type == "cpu"
    try:
        run = Run(config, callbacks or [])
        RUNNING[id(run.model)] = run
        run.train()
    finally:
        RUNNING.clear()
        parallel_state.destroy_model_parallel()
    if created and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _validate(config: Any) -> None:
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    shape = config.model
    data = ranks // (shape.tensor_model_parallel_size * shape.pipeline_model_parallel_size)
    assert config.train.global_batch_size % (config.train.micro_batch_size * data) == 0
    pretrained = Path(config.checkpoint.pretrained_checkpoint)
    assert (pretrained / "latest_train_state.pt").is_file(), "Invalid pretrained checkpoint"
    assert shape.mtp_num_layers == 0 and not shape.mtp_hybrid_override_pattern
    assert not shape.mtp_use_repeated_layer
    assert config.validation.eval_iters == 0 and shape.attention_dropout == 0.0
    assert config.peft.dim % shape.tensor_model_parallel_size == 0
    assert (config.peft.lora_A_init_method, config.peft.lora_B_init_method) == ("kaiming", "zero")


@dataclass
class TrainState:
    step: int = 0
    consumed_train_samples: int = 0


class Bridged(LoRALinear):
    """With the names of Megatron-Bridge's adapters."""

    @property
    def adapter(self) -> Any:
        return SimpleNamespace(
            linear_in=SimpleNamespace(weight=self.lora_a),
            linear_out=SimpleNamespace(weight=self.lora_b),
        )


class Run:
    """One rank's part."""

    def __init__(self, config: Any, callbacks: list[Callback]) -> None:
        torch.manual_seed(config.rng.seed)
        self.config, self.callbacks = config, callbacks
        base = Path(config.checkpoint.pretrained_checkpoint) / "iter_0000000"
        self.hf_config = model.read_config(base)
        shape = config.model
        self.model = model.build(
            self.hf_config,
            layout.Layout(
                shape.tensor_model_parallel_size,
                shape.pipeline_model_parallel_size,
                shape.expert_model_parallel_size,
            ),
        )
        weights.load(self.model, self.hf_config, base)
        self.adapted = self._adapt()
        optimizer = config.optimizer
        self.parameters = [p for item in self.adapted for _, p in item.halves()]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=optimizer.lr,
            betas=(optimizer.adam_beta1, optimizer.adam_beta2),
            eps=optimizer.adam_eps,
            weight_decay=optimizer.weight_decay,
        )
        self.state = SimpleNamespace(train_state=TrainState(), cfg=config)
        self.before: list[torch.Tensor] = []
        if config.checkpoint.load is not None:
            self._load(Path(config.checkpoint.load))
        self.batches = iter(self._loader())

    def _adapt(self) -> list[Adapted]:
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        peft, found = self.config.peft, []
        for place, block in enumerate(self.model.decoder.layers):
            for name, module in list(block.named_modules()):
                for leaf, child in list(module.named_children()):
                    path = f"{name}.{leaf}".lstrip(".")
                    if not peft.matches(f"decoder.layers.{place}.{path}"):
                        continue
                    number = block.layer_number - 1
                    settings = peft.lora()
                    wrapped = Bridged(
                        child,
                        settings["rank"],
                        settings["alpha"] / settings["rank"],
                        settings["dropout"],
                    )
                    setattr(module, leaf, wrapped)
                    inner = "shared_experts." if ".shared_experts." in path else ""
                    item = Adapted(
                        key=f"decoder.layers.{number}.{path}",
                        stem=f"layers.{number}.mixer.{inner}",
                        modules=HF_NAMES[leaf],
                        rows=mamba_rows(self.hf_config) if leaf == "in_proj" else None,
                        layer=wrapped,
                    )
                    lora._initialise(item, self.config.rng.seed)
                    found.append(item)
        return found

    def seen(self) -> list[Adapted]:
        """The adapters as the model has them now: with overlap_param_gather those of the step
        before, until the next forward pass gathers them."""
        if not (self.config.ddp.overlap_param_gather and self.before):
            return self.adapted
        old = iter(self.before)
        stale = []
        for item in self.adapted:
            layer = Bridged(item.layer.base, item.layer.lora_a.shape[0], 1.0, 0.0)
            for half in ("lora_a", "lora_b"):
                setattr(layer, half, torch.nn.Parameter(next(old)))
            stale.append(replace(item, layer=layer))
        return stale

    def _loader(self) -> Any:
        """data/loaders.py: dataloader type `single` with MegatronPretrainingSampler."""
        dataset, train = self.config.dataset, self.config.train
        assert dataset.dataloader_type == "single"
        assert not (dataset.num_workers == 0 and dataset.persistent_workers)
        total = train.train_iters * train.global_batch_size
        rows, valid, test = dataset.build_datasets(DatasetBuildContext(total, 0, 0))
        assert valid is None and test is None and len(rows) == total
        micro, rank = train.micro_batch_size, parallel_state.get_data_parallel_rank()
        size = micro * parallel_state.get_data_parallel_world_size()
        batches = [
            list(range(start + rank * micro, start + (rank + 1) * micro))
            for start in range(self.state.train_state.consumed_train_samples, total, size)
        ]
        return DataLoader(rows, batch_sampler=batches, num_workers=dataset.num_workers)

    def train(self) -> None:
        """training/train.py."""
        self.model.train()
        state = self.state.train_state
        self._fire("on_train_start")
        while state.step < self.config.train.train_iters:
            self._fire("on_train_step_start")
            losses, norm = self._step()
            self._fire("on_train_step_end", loss_dict=losses, grad_norm=norm, skipped_iter=False)
            state.step += 1
            state.consumed_train_samples += self.config.train.global_batch_size
            if state.step % self.config.checkpoint.save_interval == 0:
                self._save()
        if state.step % self.config.checkpoint.save_interval:
            self._save()
        self._fire("on_train_end")

    def _fire(self, event: str, **more: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(
                CallbackContext(
                    state=self.state, model=[self.model], optimizer=self.optimizer, **more
                )
            )

    def _step(self) -> tuple[dict[str, torch.Tensor], float]:
        train, shape = self.config.train, self.config.model
        ranks = parallel_state.get_data_parallel_world_size()
        parts, count = [], torch.zeros(1, dtype=torch.int)
        for _ in range(train.global_batch_size // (train.micro_batch_size * ranks)):
            batch = next(self.batches)
            assert batch["tokens"].shape[1] == shape.seq_length
            assert torch.equal(batch["position_ids"][0], torch.arange(shape.seq_length))
            mask = batch["loss_mask"].reshape(-1)
            parts.append(
                Micro(
                    batch["tokens"],
                    None,
                    torch.arange(len(mask)),
                    batch["labels"].reshape(-1),
                    mask,
                )
            )
            count += mask.sum().to(torch.int)  # as losses.py has it
        loss = forward_backward(self.model, parts, 1.0, True).detach()
        group = parallel_state.get_data_parallel_group(with_context_parallel=True)
        total = torch.stack([loss.double(), count[0].double()])
        dist.all_reduce(total, group=group)
        norm = self._gradients(float(total[1]))
        self.before = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for parameters in self.optimizer.param_groups:  # the scheduler
            assert self.config.scheduler.lr_decay_style == "constant"
            parameters["lr"] = self.config.optimizer.lr
        for name, buffer in self.model.named_buffers():
            if name.endswith("expert_bias"):
                buffer.add_(shape.moe_router_bias_update_rate)
        last = parallel_state.is_pipeline_last_stage()
        return ({"lm loss": total[0] / total[1]} if last else {}), norm

    def _gradients(self, tokens: float) -> float:
        """Summed over ranks, divided by the tokens of the batch, clipped; the norm before."""
        squares = torch.zeros(1)
        lowest = parallel_state.get_tensor_model_parallel_rank() == 0
        group = parallel_state.get_data_parallel_group(with_context_parallel=True)
        for item in self.adapted:
            for half, parameter in item.halves():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad, group=group)
                parameter.grad.div_(tokens)
                if half == item.layer.sharded or lowest:
                    squares += parameter.grad.pow(2).sum()
        dist.all_reduce(squares, group=parallel_state.get_model_parallel_group())
        norm = float(squares.sqrt())
        scale = min(1.0, self.config.optimizer.clip_grad / (norm + 1e-6))
        for parameter in self.parameters:
            parameter.grad.mul_(scale)
        return norm

    def _save(self) -> None:
        saving, step = self.config.checkpoint, self.state.train_state.step
        assert not saving.fully_parallel_save and not saving.async_save
        folder = Path(saving.save) / f"iter_{step:07d}"
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(
            {
                "adapter": [p.detach() for p in self.parameters],
                "optimizer": self.optimizer.state_dict(),
                "rng": torch.get_rng_state(),
            },
            folder / f"rank-{dist.get_rank()}.pt",
        )
        dist.barrier()
        if dist.get_rank() == 0:
            write_train_state(
                Path(saving.save), folder, step, self.state.train_state.consumed_train_samples
            )
            for old in sorted(Path(saving.save).glob("iter_*"))[: -saving.most_recent_k]:
                shutil.rmtree(old)
        dist.barrier()

    def _load(self, load: Path) -> None:
        if not (load / "latest_train_state.pt").is_file():
            return
        saved = torch.load(load / "latest_train_state.pt", weights_only=True)
        self.state.train_state = TrainState(
            int(saved["step"]), int(saved["consumed_train_samples"])
        )
        own = torch.load(
            load / f"iter_{int(saved['step']):07d}" / f"rank-{dist.get_rank()}.pt",
            weights_only=True,
        )
        with torch.no_grad():
            for parameter, value in zip(self.parameters, own["adapter"], strict=True):
                parameter.copy_(value)
        self.optimizer.load_state_dict(own["optimizer"])
        torch.set_rng_state(own["rng"])


def write_train_state(top: Path, folder: Path, step: int, consumed: int) -> None:
    """training/checkpointing.py `train_state_finalize_fn`, in its order."""
    torch.save(
        {"step": torch.tensor(step), "consumed_train_samples": torch.tensor(consumed)},
        folder / "train_state.pt",
    )
    shutil.copy(folder / "train_state.pt", top / "latest_train_state.pt")
    (top / "latest_checkpointed_iteration.txt").write_text(str(step))
