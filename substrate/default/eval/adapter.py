"""What an adapter may be before trusted code touches it, and how it is merged.

An adapter folder comes from code that a worker edited, so it is data to be judged: exactly two
plain files, a JSON of known fields and a safetensors file (which cannot carry code). Nothing in it
is ever imported, and no path or repository named in it is followed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

MAX_RANK = 32  # the limit of the serving side (max_lora_rank)
MAX_CONFIG_BYTES = 65_536
MAX_RELATIVE_NORM = 1e3  # |scale B A| / |W|: beyond it fp32 logits mean nothing
FILES = ("adapter_config.json", "adapter_model.safetensors")
PREFIX = "base_model.model."
DIGITS = r"\d+"  # of an expert's number, in rank_pattern
PATTERN = re.compile(r"(\w+|\\d\+)(\.(\w+|\\d\+))*")
# Fields of a peft LoraConfig that change what the tensors mean; only these values are understood.
REQUIRED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, []),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "arrow_config": (None,),
    "monteclora_config": (None,),
    "velora_config": (None,),
    "kasa_config": (None,),
}


class AdapterError(ValueError):
    """The adapter is refused; the message is one line that says why."""


@dataclass(frozen=True)
class Adapter:
    """A validated adapter: update of module M is `scale * pairs[M][1] @ pairs[M][0]`.

    Groups of modules may have ranks below `rank`; all have the same scale.
    """

    folder: Path
    rank: int
    scale: float
    pairs: dict[str, tuple[Tensor, Tensor]]  # module -> (A: own rank x in, B: out x own rank), fp32
    sha256: str  # of adapter_model.safetensors and the fields of the config that matter


def base_shapes(base: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the checkpoint in `base`, from the headers alone."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(base):
        with safe_open(str(path), framework="pt") as handle:
            for name in handle.keys():  # noqa: SIM118  safe_open is not a mapping
                shapes[name] = tuple(handle.get_slice(name).get_shape())
    return shapes


def weight_files(base: Path) -> list[Path]:
    """The checkpoint's safetensors files, sorted.

    Raises:
        FileNotFoundError: there are none.
    """
    files = sorted(base.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{base}: no safetensors weights")
    return files


def base_digest(base: Path) -> str:
    """sha256 over name and content of the weights, config and tokenizer of a checkpoint."""
    names = ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
    paths = [base / name for name in names if (base / name).is_file()] + weight_files(base)
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def load_adapter(folder: Path, shapes: Mapping[str, tuple[int, ...]] | None) -> Adapter:
    """Validate the adapter in `folder` against a base whose tensors have `shapes`, and read it.

    Without `shapes` only what needs no base is checked.

    Raises:
        AdapterError: anything about it is not as it must be.
    """
    _check_files(folder)
    config = _read_config(folder / FILES[0])
    rank, scale = _rank_and_scale(config)
    ranks = _ranks(config, rank, scale)
    try:
        with safe_open(str(folder / FILES[1]), framework="pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterError(f"{FILES[1]}: {_one_line(error)}") from error
    pairs = {
        module: _pair(module, halves, _rank(module, ranks, rank), shapes)
        for module, halves in _modules(tensors).items()
    }
    _check_targets(config, pairs)
    meaning = json.dumps([rank, scale], sort_keys=True)  # ranks of modules show in the tensors
    sha = hashlib.sha256((file_sha256(folder / FILES[1]) + meaning).encode()).hexdigest()
    return Adapter(folder, rank, scale, pairs, sha)


def merge(weights: Mapping[str, Tensor], adapter: Adapter) -> dict[str, Tensor]:
    """New weights with the adapter added, in fp32; untouched tensors are shared, not copied.

    Raises:
        AdapterError: an update is out of all proportion to the weight it changes.
    """
    merged = dict(weights)
    for module, (a, b) in adapter.pairs.items():
        weight = weights[module + ".weight"].to(torch.float32)
        update = adapter.scale * (b @ a)
        _check_ratio(module, float(update.norm() / weight.norm().clamp_min(1e-12)))
        merged[module + ".weight"] = weight + update
    return merged


def check_updates(base: Path, adapter: Adapter) -> None:
    """What merging refuses, for an adapter that something else is to apply; reads a matrix at a
    time.

    Raises:
        AdapterError: an update is out of all proportion to the weight it changes.
    """
    for path in weight_files(base):
        with safe_open(str(path), framework="pt") as handle:
            for module in adapter.pairs.keys() & {
                name.removesuffix(".weight") for name in handle.keys()  # noqa: SIM118
            }:
                a, b = adapter.pairs[module]
                # |B A| without making it: it may be as large as the weight.
                norm = adapter.scale * float(((b.T @ b) * (a @ a.T)).sum().clamp_min(0).sqrt())
                weight = handle.get_tensor(module + ".weight").to(torch.float32).norm()
                _check_ratio(module, norm / float(weight.clamp_min(1e-12)))


def _check_ratio(module: str, ratio: float) -> None:
    if not ratio <= MAX_RELATIVE_NORM:
        raise AdapterError(f"{module}: update has {ratio:.3g} times the norm of the weight")


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise AdapterError(f"{folder}: no such folder")
    present = sorted(path.name for path in folder.iterdir())
    if present != sorted(FILES):
        raise AdapterError(f"must hold exactly {', '.join(FILES)}; holds {', '.join(present)}")
    for name in FILES:
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise AdapterError(f"{name}: not a plain file")
    if (folder / FILES[0]).stat().st_size > MAX_CONFIG_BYTES:
        raise AdapterError(f"{FILES[0]}: larger than {MAX_CONFIG_BYTES} bytes")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path.name}: {_one_line(error)}") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{path.name}: not a JSON object")
    for key, allowed in REQUIRED.items():
        if config.get(key) not in allowed:
            raise AdapterError(f"{path.name}: {key}={config.get(key)!r} is not supported")
    return config


def _rank_and_scale(config: Mapping[str, Any]) -> tuple[int, float]:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MAX_RANK:
        raise AdapterError(f"rank {rank!r}: must be between 1 and {MAX_RANK}")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha) or alpha <= 0:
        raise AdapterError(f"lora_alpha {alpha!r}: must be a positive number")
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _ranks(config: Mapping[str, Any], rank: int, scale: float) -> dict[str, int]:
    """Ranks of modules by the end of their name, where they differ from the adapter's own.

    peft takes the keys for regular expressions; only plain words and `\\d+` are understood here.
    All must be scaled alike: vLLM goes by `r` and `lora_alpha` alone.
    """
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    if not isinstance(ranks, dict) or not isinstance(alphas, dict) or ranks.keys() != alphas.keys():
        raise AdapterError("rank_pattern and alpha_pattern must name the same modules")
    for key, own in ranks.items():
        known, alone = _rank_and_scale({"r": own, "lora_alpha": alphas[key]})
        if not PATTERN.fullmatch(key) or known > rank or not math.isclose(alone, scale):
            raise AdapterError(f"rank_pattern {key[:120]!r}: must be a module's name, its rank at "
                               f"most {rank} and lora_alpha / r {scale:g}")
    return ranks


def _rank(module: str, ranks: Mapping[str, int], rank: int) -> int:
    """The rank that a module should have: that of the first key it ends with."""
    parts = module.split(".")
    for key, own in ranks.items():
        words = key.split(".")
        ends = parts[-len(words) :]
        if len(ends) == len(words) and all(
            part.isdecimal() if word == DIGITS else part == word
            for word, part in zip(words, ends, strict=True)
        ):
            return own
    return rank


def _modules(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """module name -> {"lora_A": tensor, "lora_B": tensor}."""
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        stem, _, half = key.removesuffix(".weight").rpartition(".")
        known = key.endswith(".weight") and half in ("lora_A", "lora_B")
        if not known or not stem.startswith(PREFIX):
            raise AdapterError(f"unexpected tensor {key[:120]!r}")
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise AdapterError(f"{key[:120]}: type {tensor.dtype}")
        if not bool(torch.isfinite(tensor).all()):
            raise AdapterError(f"{key[:120]}: values that are not finite")
        modules.setdefault(stem.removeprefix(PREFIX), {})[half] = tensor.to(torch.float32)
    if not modules:
        raise AdapterError("no tensors")
    return modules


def _pair(
    module: str,
    halves: Mapping[str, Tensor],
    rank: int,
    shapes: Mapping[str, tuple[int, ...]] | None,
) -> tuple[Tensor, Tensor]:
    if set(halves) != {"lora_A", "lora_B"}:
        raise AdapterError(f"{module[:120]}: has only {', '.join(halves)}")
    a, b = halves["lora_A"], halves["lora_B"]
    if a.ndim != 2 or b.ndim != 2:
        raise AdapterError(f"{module[:120]}: not a pair of matrices")
    shape = (b.shape[0], a.shape[1]) if shapes is None else shapes.get(module + ".weight")
    if shape is None or len(shape) != 2:
        raise AdapterError(f"{module[:120]}: the base has no such matrix")
    if tuple(a.shape) != (rank, shape[1]) or tuple(b.shape) != (shape[0], rank):
        raise AdapterError(
            f"{module}: {tuple(a.shape)} and {tuple(b.shape)} do not fit {shape} at rank {rank}"
        )
    return a, b


def _check_targets(config: Mapping[str, Any], pairs: Mapping[str, object]) -> None:
    """Every tensor belongs to a module that the config names; other readers would drop it."""
    targets = config.get("target_modules")
    if not isinstance(targets, list):  # a pattern, or all-linear: the tensors say which
        return
    for module in pairs:
        if not any(module == t or module.endswith(f".{t}") for t in targets):
            raise AdapterError(f"{module}: not among target_modules")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
