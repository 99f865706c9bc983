"""Our rows as NeMo-RL's dataset, and their tokens as its processors give them."""

from __future__ import annotations

from typing import Any

import torch
from datasets import load_dataset
from nemo_rl.data.datasets.raw_dataset import RawDataset

TASK = "rows"


class Rows(RawDataset):
    """Lines of train/nemo_rl/rows.py."""

    def __init__(self, data_path: str, **_: Any) -> None:
        self.task_name = TASK
        found = load_dataset("json", data_files=data_path)["train"]
        self.dataset = found.add_column("task_name", [TASK] * len(found))
        self.val_dataset = None


def processed(line: dict[str, Any], spec: Any, tokenizer: Any, limit: int, index: int,
              **_: Any) -> dict[str, Any]:
    """A line to learn, or a prompt to answer, as a DatumSpec."""
    if line.get("ids") is not None:
        start = line["learned"]
        log = [message("user", line["ids"][:start], tokenizer),
               message("assistant", line["ids"][start:], tokenizer)]
        info = None
    else:
        log = [message("user", line["prompt"], tokenizer)]
        info = {"row": line["row"], "ground_truth": line["answer"]}
    return {
        "message_log": [part for part in log if len(part["token_ids"])],
        "length": sum(len(part["token_ids"]) for part in log), "extra_env_info": info,
        "loss_multiplier": float(line["weight"]), "idx": index, "task_name": TASK,
    }


def preference(line: dict[str, Any], spec: Any, tokenizer: Any, limit: int,
               index: int) -> dict[str, Any]:
    """A pair as a PreferenceDatumSpec."""
    found: dict[str, Any] = {"loss_multiplier": float(line["weight"]), "idx": index}
    for side in ("chosen", "rejected"):
        log = [message("user", line["prompt"], tokenizer),
               message("assistant", line[side], tokenizer)]
        found[f"message_log_{side}"] = log
        found[f"length_{side}"] = sum(len(part["token_ids"]) for part in log)
    return found


def message(role: str, ids: list[int], tokenizer: Any) -> dict[str, Any]:
    """One turn; its text is for NeMo-RL's logs alone."""
    return {"role": role, "content": tokenizer.decode(ids),
            "token_ids": torch.tensor(ids, dtype=torch.long)}
