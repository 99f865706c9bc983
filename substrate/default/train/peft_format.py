"""An adapter as vLLM, the trusted check of adapters and, as far as it can, peft read it.

Names are those of the checkpoint on disk (`base_model.model.backbone.layers.…`), one pair a matrix:
each routed expert has its own. `mtp.` layers have none. Where groups of modules have ranks of their
own, `rank_pattern` says so; the scale alpha / rank is the same for all, since vLLM takes it from
`r` and `lora_alpha` alone. Before a run starts, `check_loadable` makes sure that every tensor has a
place in the model: peft drops unknown ones silently.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.targets import rank, scale

PREFIX = "base_model.model."
ROOT = f"{PREFIX}backbone."
HALVES = ("lora_A.weight", "lora_B.weight")
REFUSED = "out_proj"  # by peft 0.21 for Mamba models, at load too
EXPERTS = "experts"
FUSED = {  # where peft puts the factors of experts' fused 3-D parameters: the last is outermost
    f".{EXPERTS}.base_layer.": "up_proj", f".{EXPERTS}.": "down_proj",
}


class ModelError(ValueError):
    """The base cannot be loaded or has no such modules; one line."""


def full_name(module: str, half: str) -> str:
    """Name of a tensor; `module` without the decoder's root: `layers.4.mixer.in_proj`."""
    return f"{PREFIX if module == 'lm_head' else ROOT}{module}.{half}"


def module_of(name: str) -> str:
    """The reverse: the module that a tensor belongs to."""
    return name.removeprefix(ROOT).removeprefix(PREFIX).rsplit(".", 2)[0]


def expert_name(module: str, number: int) -> str:
    """The module of one expert: `experts.7.up_proj` of `experts.up_proj`."""
    return module.replace(f"{EXPERTS}.", f"{EXPERTS}.{number}.", 1)


def peft_config(lora: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """adapter_config.json for tensors of these names."""
    from peft import LoraConfig

    config: dict[str, Any] = LoraConfig(**lora_fields(lora, names),
                                        task_type="CAUSAL_LM").to_dict()
    return config


def lora_fields(lora: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """What of adapter_config.json depends on the recipe, for tensors of these names."""
    modules = sorted({module_of(name) for name in names})
    ranks = {_pattern(module): rank(lora, module) for module in modules}
    largest = max(ranks.values(), default=lora["rank"])
    other = {pattern: own for pattern, own in sorted(ranks.items()) if own != largest}
    return {
        "r": largest, "lora_alpha": _alpha(lora, largest), "lora_dropout": lora["dropout"],
        "target_modules": sorted({module.split(".")[-1] for module in modules}),
        "rank_pattern": other,
        "alpha_pattern": {pattern: _alpha(lora, own) for pattern, own in other.items()},
    }


def published(config: dict[str, Any]) -> dict[str, Any]:
    """A LoraConfig of `lora_config` as `peft_config` writes it for the tensors of `unfused`."""
    ranks = config["rank_pattern"]
    largest = max(ranks.values(), default=config["r"])
    other = {_pattern(name.replace(f"{EXPERTS}.", f"{EXPERTS}.0.")
                      if name.startswith(f"{EXPERTS}.") else name): own
             for name, own in ranks.items() if own != largest}
    lora = {"rank": config["r"], "alpha": config["lora_alpha"]}
    names = {*config["target_modules"], *(config["target_parameters"] or ())}
    return config | {
        "r": largest, "lora_alpha": _alpha(lora, largest), "rank_pattern": other,
        "alpha_pattern": {pattern: _alpha(lora, own) for pattern, own in other.items()},
        "target_modules": sorted({name.split(".")[-1] for name in names}),
        "target_parameters": None,
    }


def _alpha(lora: dict[str, Any], own: int) -> Any:
    alpha = scale(lora) * own
    return int(alpha) if alpha == int(alpha) else alpha


def _pattern(module: str) -> str:
    """The end of a module's name that tells its group; peft reads it as a regular expression, the
    trusted check as these words and nothing more."""
    parts = module.split(".")
    if EXPERTS in parts:
        return rf"{EXPERTS}.\d+.{parts[-1]}"
    return ".".join(parts[-2:])


def lora_config(lora: dict[str, Any], modules: Iterable[str]) -> Any:
    """What peft is to put on a transformers model for modules as `train.targets` resolves them.

    Experts are fused 3-D parameters there, which peft adapts by `target_parameters`.
    """
    from peft import LoraConfig

    names = sorted(set(modules), key=lambda name: (-name.count("."), name))  # the first that fits
    ranks = {name: rank(lora, name) for name in names}
    other = ranks if set(ranks.values()) - {lora["rank"]} else {}
    fused = [name for name in names if name.startswith(f"{EXPERTS}.")]
    return LoraConfig(
        r=lora["rank"], lora_alpha=lora["alpha"], lora_dropout=lora["dropout"],
        target_modules=sorted(set(names) - set(fused)), target_parameters=fused or None,
        rank_pattern=other,
        alpha_pattern={name: _alpha(lora, own) for name, own in other.items()},
        task_type="CAUSAL_LM",
    )


def adapt(model: Any, config: Any) -> Any:
    """peft's get_peft_model, without a warning that is not so: it looks whether every key of
    `rank_pattern` was used before it has come to the experts.

    Raises:
        ValueError: peft refuses one of the modules.
    """
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The following .* keys did not match")
        return get_peft_model(model, config)


def unfused(state: Mapping[str, Tensor], experts: int) -> dict[str, Tensor]:
    """peft's tensors, the factors of fused experts as one pair an expert.

    peft has A as (experts x rank, in) and B as (out, rank x experts), the experts last.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        place = next((place for place in FUSED if place + "lora_" in name), None)
        if place is None:
            found[name] = tensor
            continue
        stem, half = name.split(place)
        pieces = (tensor.reshape(experts, -1, tensor.shape[1]) if half == HALVES[0]
                  else tensor.reshape(tensor.shape[0], -1, experts).permute(2, 0, 1))
        found |= {f"{stem}.{EXPERTS}.{number}.{FUSED[place]}.{half}": piece.contiguous()
                  for number, piece in enumerate(pieces)}
    return found


def check_loadable(base: Path, lora: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    """Build the model without weights, let peft adapt it, and compare names and shapes.

    out_proj is left out of the comparison: peft refuses it, vLLM and eval's own merge do not.
    Experts' pairs are compared with those that peft has for the fused parameters.

    Raises:
        ModelError: the model has places for another set of tensors than will be saved.
    """
    from peft import get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    saved = {name: shape for name, shape in shapes.items() if f".{REFUSED}." not in name}
    if not saved:
        return
    targets = {_target(module_of(name)) for name in saved}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
        adapted = adapt(model, lora_config(lora | {"dropout": 0.0}, targets))
        state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        state = unfused(state, getattr(model.config, "n_routed_experts", 0))
    loaded = {name.replace(f"{PREFIX}model.", ROOT, 1): tuple(tensor.shape)
              for name, tensor in state.items()}
    if loaded != saved:
        different = sorted(set(loaded.items()) ^ set(saved.items()))
        raise ModelError(
            f"{base}: peft would load {len(loaded)} tensors where {len(saved)} are saved; first "
            f"difference {different[0][0]} {different[0][1]}"
        )


def _target(module: str) -> str:
    """What names a module to peft: `mixer.in_proj`, `experts.up_proj` of each expert."""
    parts = [part for part in module.split(".") if not part.isdigit()]
    return ".".join(parts[-2:])
