"""A stand-in for NVIDIA Megatron-Bridge, for tests alone: the part of its API that trainer=bridge
uses, over the mcore model that trainer=megatron runs on CPU. It really trains.

Names, signatures, order of events and file names are those of Megatron-Bridge v0.5.1 (commit
5cb3444c4, 2026-07-20), read in its source: training/{finetune,pretrain,setup,train,callbacks,
config,gpt_step,losses,checkpointing}.py, data/{loaders,samplers}.py, peft/{lora,module_matcher}.py,
models/conversion/{auto_bridge,peft_bridge}.py, recipes/nemotronh/*. What it takes over of the real
one's behaviour because a trainer must cope with it:

- the loss is that of the last pipeline stage alone; weights count in whole numbers (`to(int)`);
- the scheduler sets the learning rate after every step;
- ranks' rows of in_proj's adapter are exported one after the other, which is wrong at tensor > 1;
- a bias update rate above 0 changes the router's bias, `mtp` layers above 0 are an error here;
- with `overlap_param_gather` an export right after a step sees the parameters before it;
- the tracker of the newest checkpoint is written in place.

It sets no environment and needs no GPU. What it shows is that our side of the API is right, not
that Megatron-Bridge is.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from megatron.bridge.training import finetune as engine
from train.mcore import export

__version__ = "0.5.1"


class HFWeightTuple(NamedTuple):
    param_name: str
    weight: torch.Tensor


class AutoBridge:
    """Conversion between Hugging Face and megatron."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def from_hf_pretrained(cls, path: str | Path, **kwargs: Any) -> AutoBridge:
        if not (Path(path) / "config.json").is_file():
            raise ValueError(f"Failed to load model with AutoBridge: {path}")
        return cls(Path(path))

    @classmethod
    def import_ckpt(cls, hf_model_id: str | Path, megatron_path: str | Path, **kwargs: Any) -> None:
        assert kwargs == {"torch_dtype": torch.bfloat16, "device_map": "cpu"}
        folder = Path(megatron_path) / "iter_0000000"
        shutil.copytree(hf_model_id, folder, ignore=shutil.ignore_patterns(".*", "megatron"))
        engine.write_train_state(Path(megatron_path), folder, 0, 0)

    def to_megatron_provider(self, load_weights: bool = True) -> Any:
        from megatron.bridge.training.config import MambaModelProvider

        return MambaModelProvider.of(self.path)

    def export_adapter_weights(
        self,
        model: list[Any],
        cpu: bool = True,
        show_progress: bool = True,
        exclude_adapter_base_prefixes: Iterable[str] | None = None,
    ) -> Iterator[HFWeightTuple]:
        """Collective. Rows of in_proj one rank after the other."""
        run = engine.RUNNING[id(model[0])]
        tensors = export.gather([replace(item, rows=None) for item in run.seen()], run.hf_config)
        for name, tensor in tensors.items():
            yield HFWeightTuple(name.removeprefix("base_model.model."), tensor)


__all__ = ["AutoBridge", "__version__"]
