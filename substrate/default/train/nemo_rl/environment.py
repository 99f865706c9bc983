"""The reward of NeMo-RL's GRPO: the substrate's own metric, as a Ray actor.

What is right the frozen metric says; `train/rl/reward.py` shapes the reward from it, as for
trainer=peft. Runs in NeMo-RL's own environment, beside no model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ray
import torch
from eval.chat import load_chat
from nemo_rl.environments.interfaces import EnvironmentInterface, EnvironmentReturn

from train.rl.reward import reward, right


class Judge:
    """What an answer is worth, and where answers are kept."""

    def __init__(self, cfg: dict[str, Any]) -> None:
        """`cfg`: base, max_new, penalty; answers: a file for them, or None."""
        self.chat = load_chat(Path(cfg["base"]))
        self.max_new, self.penalty = int(cfg["max_new"]), float(cfg["penalty"])
        self.kept = Path(cfg["answers"]) if cfg["answers"] else None

    def rewards(self, texts: list[str], asked: list[dict[str, Any]]) -> list[float]:
        """Of each text; `asked` has `row` and `ground_truth`."""
        lengths = [len(one.ids) for one in self.chat.encode(texts)]
        found = []
        for text, length, own in zip(texts, lengths, asked, strict=True):
            share = min(1.0, length / self.max_new)
            found.append(reward(own["ground_truth"], text, share, self.penalty))
        if self.kept:
            with self.kept.open("a", encoding="utf-8") as handle:
                for text, worth, own in zip(texts, found, asked, strict=True):
                    handle.write(json.dumps({
                        "row": own["row"], "text": text, "reward": worth,
                        "right": right(own["ground_truth"], text),
                    }) + "\n")
        return found


class PuzzlesEnvironment(EnvironmentInterface):
    """One turn: the answer is judged, and the conversation is over."""

    def __init__(self, cfg: dict[str, Any]) -> None:
        self.judge = Judge(cfg)

    def step(self, message_log_batch: list[Any], metadata: list[Any]) -> EnvironmentReturn:
        """Rewards of a batch of conversations."""
        texts = ["".join(str(message["content"]) for message in log
                         if message["role"] == "assistant") for log in message_log_batch]
        rewards = torch.tensor(self.judge.rewards(texts, metadata))
        return EnvironmentReturn(
            observations=[{"role": "environment", "content": ""} for _ in texts],
            metadata=metadata, next_stop_strings=[None] * len(texts), rewards=rewards,
            terminateds=torch.ones_like(rewards), answers=None,
        )

    def global_post_process_and_metrics(self, batch: Any) -> tuple[Any, dict[str, float]]:
        """Nothing to add."""
        return batch, {}

    def shutdown(self) -> None:
        """Nothing to end."""


Puzzles = ray.remote(PuzzlesEnvironment)
