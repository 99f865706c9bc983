"""What a training run leaves on disk, and how it goes on after being killed.

Guarantees: every file appears whole or not at all (temporary file, fsync, rename). The state holds
all that the next step depends on, so a run killed at any instant and started again gives the same
adapter bit for bit (same machine, same thread count). Not guaranteed: equal bits across processors.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from eval import files
from safetensors.torch import load_file, save_file
from torch import Tensor

from train.peft_format import published, unfused

if TYPE_CHECKING:
    from peft import PeftModel

SCHEMA = 1


class StateError(ValueError):
    """What lies in the output folder belongs to another run; one line."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically and durably."""
    files.write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the model's adapter in peft's format, its tensors named as in the base's files.

    Raises:
        OSError: what was read back is not what was saved.
    """
    # Not before: the containers of other trainers need not have them.
    from eval.hf import disk_name
    from peft import get_peft_model_state_dict

    base: Any = model.get_base_model()
    kind = base.config.model_type
    # peft would add the whole head to an adapter on it
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    state = unfused(state, getattr(base.config, "n_routed_experts", 0))
    tensors = {disk_name(name, kind): tensor for name, tensor in state.items()}
    write_adapter(tensors, published(model.peft_config["default"].to_dict()), folder)


def write_adapter(tensors: dict[str, Tensor], config: dict[str, Any], folder: Path) -> None:
    """Write adapter_model.safetensors and adapter_config.json, read the tensors back, and only
    then give the folder its name.

    A folder of that name is replaced: it is the same checkpoint, written before a kill.

    Args:
        config: fields of a peft LoraConfig.

    Raises:
        OSError: what was read back is not what was saved.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    config = config | {
        "inference_mode": True,
        "target_modules": sorted(config["target_modules"]),  # a set: its order is not stable
        "base_model_name_or_path": None,  # where the base lay on this machine means nothing
    }
    config = {k: v.value if hasattr(v, "value") else v for k, v in config.items()}
    write_json(temporary / "adapter_config.json", config)
    save_file(tensors, temporary / "adapter_model.safetensors")
    _fsync(temporary / "adapter_model.safetensors")
    back = load_file(temporary / "adapter_model.safetensors")
    if back.keys() != tensors.keys() or any(not _same(back[k], v) for k, v in tensors.items()):
        raise OSError(f"{folder}: the adapter read back differs from the one saved")
    if folder.exists():
        shutil.rmtree(folder)
    temporary.replace(folder)
    _fsync(folder.parent)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write the resume state atomically; plain containers and tensors only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as handle:
        torch.save(state, handle)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def load_state(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The resume state at `path`, or None where a run has not got that far.

    Raises:
        StateError: it was made with other arguments than `identity` records.
    """
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    same_run(path, state["identity"], identity)
    return state


def load_result(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """result.json of a finished run, or None if there is none that is whole.

    Raises:
        StateError: it is another run's.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(result, dict) or result.get("schema_version") != SCHEMA:
        return None
    same_run(path, {key: result.get(key) for key in identity}, identity)
    return result


def remove_temporaries(out: Path) -> None:
    """Delete what a killed process of this run left half written."""
    for folder in (out, out / "state", out / "checkpoints"):
        for path in folder.glob(".*") if folder.is_dir() else ():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def trim_metrics(path: Path, steps: int) -> None:
    """Drop lines of steps after `steps` and a torn last line: those steps will run again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError):
            break
        if step > steps or not line.endswith("\n"):
            break
        kept.append(line)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(path)


def same_run(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    different = [key for key in expected if found.get(key) != expected[key]]
    if different:
        raise StateError(f"{path}: made with another {', '.join(different)}; use a new --out")


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
