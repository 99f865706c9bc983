"""What makes a set of tensors a LoRA of a given base checkpoint, in the layout of peft."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from aevo.errors import RecordError
from aevo.evaluate.untrusted import IntegrityError, shown

PREFIX = "base_model.model."
DIGITS = r"\d+"
PATTERN = re.compile(r"(\w+|\\d\+)(\.(\w+|\\d\+))*")  # a key of rank_pattern
TYPES = ("F32", "F16", "BF16")
# Fields of a LoraConfig that change what the tensors mean; only these values are understood.
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
    "use_rslora": (False, True, None),
    # pissa, olora, eva, corda and loftq change the base itself, which no evaluation would do.
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal"),
}
# Fields by which a loader would import code that the adapter names.
BANNED = (
    "auto_map",
    "auto_mapping",
    "trust_remote_code",
    "custom_modules",
    "_custom_modules",
    "custom_pipelines",
    "parent_library",
    "base_model_class",
)


def judged_config(config: Mapping[str, Any], modules: Iterable[str], base: Path) -> dict[str, Any]:
    """The config of a LoRA written anew: rank and scale as they were judged, the modules that the
    tensors are of, and nothing else that the run wrote. What a loader takes from fields that are
    not here (other layers, other patterns, another core) it takes from its defaults."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": config["r"],
        "lora_alpha": config["lora_alpha"],
        "use_rslora": bool(config.get("use_rslora")),
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
        "fan_in_fan_out": False,
        "target_modules": _targets(set(modules), base),
        # `check_ranks` has read these as plain words, one rank and one scale each
        **{
            key: config[key]
            for key in ("rank_pattern", "alpha_pattern", "base_sha256")
            if config.get(key)
        },
    }


def _targets(modules: set[str], base: Path) -> list[str]:
    """Last names where they mean just these modules of the base, else the whole names."""
    last = {module.rpartition(".")[2] for module in modules}
    meant = {
        name
        for key, shape in base_shapes(base).items()
        if len(shape) == 2 and (name := key.removesuffix(".weight")).rpartition(".")[2] in last
    }
    return sorted(last if meant == modules else modules)


def base_shapes(base: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a trusted checkpoint, from the headers alone.

    Raises:
        RecordError: it has no safetensors weights.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(base.glob("*.safetensors")):
        try:
            with safe_open(str(path), framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118  safe_open is not a mapping
                    shapes[name] = tuple(file.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise RecordError(f"{path} cannot be read ({error})") from error
    if not shapes:
        raise RecordError(
            f"{base} has no safetensors weights",
            "a LoRA adapter needs a base checkpoint to be compared with",
        )
    return shapes


def check_ranks(config: Mapping[str, Any], rank: int, scale: float) -> dict[str, int]:
    """Ranks of modules by the end of their name, where they differ from the adapter's own.

    peft takes the keys for regular expressions; here only plain words and `\\d+`, an expert's
    number, are understood. All must be scaled alike: vLLM goes by `r` and `lora_alpha` alone.

    Raises:
        IntegrityError: they are anything else.
    """
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    if not isinstance(ranks, dict) or not isinstance(alphas, dict) or ranks.keys() != alphas.keys():
        raise IntegrityError("rank_pattern and alpha_pattern do not name the same modules")
    for key, own in ranks.items():
        alpha = alphas[key]
        whole = type(own) is int and 1 <= own <= rank
        over = math.sqrt(own) if whole and config.get("use_rslora") else own
        if not (whole and type(alpha) in (int, float) and math.isclose(alpha / over, scale)):
            raise IntegrityError(
                f"rank_pattern {shown(key)}: not a rank of at most {rank} with "
                f"lora_alpha / r {scale:g}"
            )
        if not PATTERN.fullmatch(key):
            raise IntegrityError(f"rank_pattern {shown(key)} is no module's name")
    return ranks


def rank_of(module: str, ranks: Mapping[str, int], rank: int) -> int:
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


def check_pairs(
    shapes: Mapping[str, tuple[int, ...]],
    types: Mapping[str, str],
    rank: int,
    base: Path,
    ranks: Mapping[str, int] | None = None,
) -> list[str]:
    """Checks that the tensors are pairs A (rank x in), B (out x rank) of matrices of the base;
    returns the modules they belong to.

    Args:
        ranks: of `check_ranks`.

    Raises:
        IntegrityError: any tensor is something else.
    """
    known = base_shapes(base)
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        stem, _, half = name.removesuffix(".weight").rpartition(".")
        pair = name.endswith(".weight") and half in ("lora_A", "lora_B")
        if not pair or not stem.startswith(PREFIX):
            raise IntegrityError(f"{shown(name)} is no half of a LoRA pair")
        if types[name] not in TYPES:
            raise IntegrityError(f"{shown(name)} has type {types[name]}")
        modules.setdefault(stem.removeprefix(PREFIX), {})[half] = shape
    for module, halves in modules.items():
        if len(halves) != 2:
            raise IntegrityError(f"{shown(module)} has only {', '.join(halves)}")
        weight = known.get(module + ".weight")
        if weight is None or len(weight) != 2:
            raise IntegrityError(f"the base has no matrix {shown(module)}")
        own = rank_of(module, ranks or {}, rank)
        wanted = {"lora_A": (own, weight[1]), "lora_B": (weight[0], own)}
        if halves != wanted:
            raise IntegrityError(
                f"{shown(module)}: {halves['lora_A']} and {halves['lora_B']} do "
                f"not fit {weight} at rank {own}"
            )
    return list(modules)


def check_targets(config: Mapping[str, Any], modules: Iterable[str]) -> None:
    """Every tensor belongs to a module that the config names; a reader would drop others.

    Raises:
        IntegrityError: one does not.
    """
    targets = config.get("target_modules")
    if not isinstance(targets, list):  # a pattern, or all-linear: the tensors say which
        return
    known = {name for name in targets if isinstance(name, str)}
    for module in modules:
        parts = module.split(".")
        if not any(".".join(parts[start:]) in known for start in range(len(parts))):
            raise IntegrityError(f"{shown(module)} is not among target_modules")
