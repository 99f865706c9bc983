"""NeMo-RL's three loops on CPU, as 0.7.0 orders their events: configuration, log, state, dataset,
environment, model; a step, its state, then its line in the log.

The model is trainer=peft's, so that its losses are an oracle. Where the real one samples with vLLM,
this one gives every other answer as the environment's own truth: a random model has none.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from eval.hf import open_model
from omegaconf import DictConfig, OmegaConf
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from nemo_rl.data import utils as data_utils
from nemo_rl.data.processors import PROCESSOR_REGISTRY
from nemo_rl.environments.utils import create_env
from nemo_rl.utils.logger import Logger


def load_config(path: Path) -> DictConfig:
    """NeMo-RL's inheritance: `defaults` below the file's own values."""
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    parent = config.pop("defaults", None)
    return config if parent is None else OmegaConf.merge(load_config(path.parent / parent), config)


def named(name: str) -> Any:
    module, _, leaf = name.rpartition(".")
    return getattr(importlib.import_module(module), leaf)


def main(kind: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    config: Any = OmegaConf.to_container(load_config(parser.parse_args().config), resolve=True)
    Loop(kind, config).run()


class Loop:
    def __init__(self, kind: str, config: dict[str, Any]) -> None:
        self.kind, self.config, self.policy = kind, config, config["policy"]
        self.own, self.checkpointing = config[kind], config["checkpointing"]
        assert self.own["val_period"] == 0 and config["data"]["validation"] is None
        assert not self.policy["sequence_packing"]["enabled"]
        assert self.policy["dtensor_cfg"]["_v2"]
        self.logger = Logger(config["logger"])
        self.folder = Path(self.checkpointing["checkpoint_dir"])
        self.tokenizer = AutoTokenizer.from_pretrained(self.policy["tokenizer"]["name"])
        self.lines = self._lines()
        self.model = self._model()
        chosen = self.policy["optimizer"]
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.trained = trained
        self.optimizer = named(chosen["name"])(trained, **chosen["kwargs"])
        first, last = self.policy["scheduler"]
        assert last == {"milestones": []}
        self.scheduler = torch.optim.lr_scheduler.SequentialLR(
            self.optimizer, [named(first["name"])(self.optimizer, **first["kwargs"])], []
        )
        self.done = self._load()

    def _lines(self) -> list[dict[str, Any]]:
        data = self.config["data"]
        given = data["default"] | data["train"]
        found = named(given["dataset_name"])(**given).dataset
        limit = data["max_input_seq_length"]
        if self.kind == "dpo":
            return data_utils.preferences(found, self.tokenizer, limit)
        make = PROCESSOR_REGISTRY[given["processor"]]
        if self.kind == "grpo":
            self.env = create_env(given["env_name"], self.config["env"][given["env_name"]])
        more = {} if self.kind == "grpo" else {"add_bos": True, "add_eos": True}
        return [make(line, None, self.tokenizer, limit, n, **more) for n, line in enumerate(found)]

    def _model(self) -> Any:
        lora = self.policy["dtensor_cfg"]["lora_cfg"]
        assert not (lora["match_all_linear"] or lora["exclude_modules"])
        base = open_model(Path(self.policy["model_name"]), torch.float32)
        wanted = [
            name
            for name, module in base.named_modules()
            if isinstance(module, torch.nn.Linear)
            and any(fnmatch(name, pattern) for pattern in lora["target_modules"])
        ]
        torch.manual_seed(self.own["seed"])
        return get_peft_model(
            base,
            LoraConfig(
                r=lora["dim"], lora_alpha=lora["alpha"], lora_dropout=0.0, target_modules=wanted
            ),
        ).train()

    def _load(self) -> int:
        found = {int(path.name[5:]): path for path in self.folder.glob("step_*")}
        if not found:
            return 0
        newest = found[max(found)]
        info = json.loads((newest / "training_info.json").read_text())
        weights = newest / "policy" / "weights" / "model" / "adapter_model.safetensors"
        set_peft_model_state_dict(self.model, load_file(weights))
        if (newest / "policy" / "optimizer").is_dir():
            state = torch.load(newest / "policy" / "optimizer" / "state.pt")
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
        position = torch.load(newest / "train_dataloader.pt")
        saved = OmegaConf.load(newest / "config.yaml")
        if saved["data"]["train"]["dataset_name"] == self.config["data"]["train"]["dataset_name"]:
            assert position == {"rows": info["total_steps"]}
        else:
            assert info["total_steps"] == 0
        return int(info["total_steps"])

    def run(self) -> None:
        steps, rows = self.own["max_num_steps"], self.policy["train_global_batch_size"]
        if self.kind == "grpo":
            self.samples = self.own["num_generations_per_prompt"]
            assert rows == self.own["num_prompts_per_step"] * self.samples
            rows = self.own["num_prompts_per_step"]
        assert len(self.lines) == steps * rows, (len(self.lines), steps, rows)
        killed = os.environ.get("STANDIN_KILL", "").split(":")  # kind, step
        if self.kind == "dpo":
            with torch.no_grad():
                self.reference = [
                    [self._told(line, side) for side in ("chosen", "rejected")]
                    for line in self.lines
                ]
        for step in range(self.done, steps):
            numbers = range(step * rows, (step + 1) * rows)
            metrics = self._step(numbers)
            if self.checkpointing["enabled"] and (
                step + 1 == steps or (step + 1) % self.checkpointing["save_period"] == 0
            ):
                self._save(step + 1)
            self.logger.log_metrics(metrics, step + 1, prefix="train")
            self.logger.log_metrics({"total": 1.0}, step + 1, prefix="timing/train")
            if killed == [self.kind, str(step + 1)]:
                os.kill(os.getpid(), signal.SIGKILL)

    def _step(self, numbers: range) -> dict[str, Any]:
        rate = self.optimizer.param_groups[0]["lr"]
        loss, more = getattr(self, f"_{self.kind}")(numbers)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.policy["max_grad_norm"])
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        return {"loss": loss.item(), "grad_norm": norm.item(), "lr": rate} | more

    def _each(self, log: list[dict[str, Any]]) -> Tensor:
        """Log-probabilities of the assistant's tokens."""
        ids = torch.cat([part["token_ids"] for part in log])
        learned = torch.cat(
            [torch.full((len(p["token_ids"]),), p["role"] == "assistant") for p in log]
        )
        logits = self.model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
        each = -F.cross_entropy(logits, ids[1:], reduction="none")
        return each[learned[1:]]

    def _told(self, line: dict[str, Any], side: str) -> Tensor:
        return self._each(line[f"message_log_{side}"]).sum()

    def _sft(self, numbers: range) -> tuple[Tensor, dict[str, Any]]:
        lines = [self.lines[n] for n in numbers]
        parts = [(self._each(line["message_log"]), line["loss_multiplier"]) for line in lines]
        total = sum(len(part) * weight for part, weight in parts)
        return -sum(part.sum() * weight for part, weight in parts) / total, {}

    def _dpo(self, numbers: range) -> tuple[Tensor, dict[str, Any]]:
        beta, losses = self.own["reference_policy_kl_penalty"], []
        for n in numbers:
            now = [self._told(self.lines[n], side) for side in ("chosen", "rejected")]
            gain = [a - b for a, b in zip(now, self.reference[n], strict=True)]
            losses.append(-F.logsigmoid(beta * (gain[0] - gain[1])))
        return torch.stack(losses).mean(), {}

    def _grpo(self, numbers: range) -> tuple[Tensor, dict[str, Any]]:
        generation = self.policy["generation"]
        assert generation["backend"] == "vllm" and generation["stop_token_ids"]
        losses, rewards, tokens = [], [], 0
        for n in numbers:
            asked = self.lines[n]
            truth = asked["extra_env_info"]["ground_truth"]
            texts = [f"\\boxed{{{truth if k % 2 else truth + 'x'}}}" for k in range(self.samples)]
            logs = [[*asked["message_log"], {"role": "assistant", "content": t}] for t in texts]
            seen = [[{k: part[k] for k in ("role", "content")} for part in log] for log in logs]
            judged = self.env.step.remote(seen, [asked["extra_env_info"]] * self.samples)
            spread = judged.rewards.std(correction=0) + 1e-6
            advantages = (judged.rewards - judged.rewards.mean()) / spread
            for log, advantage in zip(logs, advantages, strict=True):
                ids = self.tokenizer(log[-1]["content"], add_special_tokens=False)["input_ids"]
                log[-1]["token_ids"] = torch.tensor([*ids, generation["stop_token_ids"][0]])
                each = self._each(log)
                losses.append(-(advantage * (each - each.detach()).exp()).sum() / len(each))
                tokens += sum(len(part["token_ids"]) for part in log)
            rewards += judged.rewards.tolist()
        reward = sum(rewards) / len(rewards)
        return torch.stack(losses).mean(), {"reward": reward, "total_num_tokens": tokens}

    def _save(self, step: int) -> None:
        folder = self.folder / f"tmp_step_{step}"
        model = folder / "policy" / "weights" / "model"
        model.mkdir(parents=True, exist_ok=True)
        (folder / "training_info.json").write_text(json.dumps({"total_steps": step}))
        OmegaConf.save(OmegaConf.create(self.config), folder / "config.yaml")
        save_file(
            {k: v.contiguous() for k, v in get_peft_model_state_dict(self.model).items()},
            model / "adapter_model.safetensors",
        )
        optimizer = folder / "policy" / "optimizer"
        optimizer.mkdir(exist_ok=True)
        torch.save(
            {"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()},
            optimizer / "state.pt",
        )
        torch.save({"rows": step}, folder / "train_dataloader.pt")
        final = self.folder / f"step_{step}"
        shutil.rmtree(final, ignore_errors=True)
        folder.rename(final)
