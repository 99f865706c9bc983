"""The recipe: its schema, its defaults' types, and all its problems at once.

Every key of recipe.yaml is listed here with what it may be. Training reads the same recipe through
`load_recipe`, so a value is judged in one place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from puzzles import DOMAINS
from puzzles.challenge import SUBDOMAINS

# data.real, all of it optional: it says something only where there are real rows (data/real.py).
REAL: dict[str, Any] = {"share": 0.5, "domains": {}, "repeat": 1, "unsolved": "answer", "skip": []}
# train.stages and train.rl, all of it optional: how a run is trained beside SFT (train/rl/plan.py).
METHODS = ("rft", "dpo", "grpo")  # after SFT, in this order
RL: dict[str, Any] = {
    "rounds": 2, "samples": 8, "sampled": 0.5, "temperature": 1.0, "max_new": None,
    "keep": "unique", "mix": 0.5, "learning_rate": 5.0e-4, "beta": 0.1, "kl": 0.0, "clip": 0.2,
    "updates": 1, "length_penalty": 0.0,
}
STYLES = ("none", "short", "full", "bases", "enumerate", "recall")
# Groups of modules, and modules. `all`: every linear layer but out_proj of Mamba models, routed
# experts and the head, which are to be named beside it.
GROUPS = ("attention", "mlp", "mamba", "shared_experts", "experts", "lm_head")
TARGETS = ("all", *GROUPS)
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
           "in_proj", "out_proj")  # the last two: Mamba layers

Check = Callable[[Any], str | None]


class RecipeError(ValueError):
    """The recipe has problems; the message lists all of them."""


def number(low: float, high: float, whole: bool = False) -> Check:
    """A number in [low, high]; whole numbers only where asked."""

    def check(value: Any) -> str | None:
        kinds = (int,) if whole else (int, float)
        fits = isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high
        return None if fits else f"a {'whole ' if whole else ''}number from {low:g} to {high:g}"

    return check


def one_of(*values: Any) -> Check:
    """One of the listed values."""
    return lambda value: None if value in values else f"one of {', '.join(map(str, values))}"


def optional(inner: Check) -> Check:
    """null, or what `inner` accepts."""

    def check(value: Any) -> str | None:
        wanted = None if value is None else inner(value)
        return wanted and f"null or {wanted}"

    return check


def domains(inner: Check, complete: bool = False) -> Check:
    """A mapping from domains to what `inner` accepts; all six where `complete`."""

    def check(value: Any) -> str | None:
        wanted = inner(object())
        known = isinstance(value, dict) and set(value) <= set(DOMAINS)
        fits = known and (not complete or set(value) == set(DOMAINS))
        if fits and all(inner(item) is None for item in value.values()):
            return None
        return f"a mapping of {'all of ' if complete else ''}{', '.join(DOMAINS)} to {wanted}"

    return check


def mixture(value: Any) -> str | None:
    """Weights of all domains, at least one above zero."""
    wanted = domains(number(0, 1000), complete=True)(value)
    if wanted is None and not any(value.values()):
        return "weights of which at least one is above 0"
    return wanted


def weights(value: Any) -> str | None:
    """Weights of domains, 1 where not given; not all zero, which would leave nothing to weigh."""
    wanted = domains(number(0, 1000))(value)
    if wanted is None and not any(value.get(domain, 1) for domain in DOMAINS):
        return "weights of which at least one is above 0"
    return wanted


def targets(value: Any) -> str | None:
    """A named group of modules, or a list of groups and modules."""
    if isinstance(value, str) and value in TARGETS:
        return None
    known = TARGETS + MODULES
    if isinstance(value, list) and value and all(item in known for item in value):
        return None
    return f"one of {', '.join(TARGETS)}, or a list of these and {', '.join(MODULES)}"


def ranks(value: Any) -> str | None:
    """Ranks of groups of modules that have another than train.lora.rank."""
    inner = number(1, 32, whole=True)
    known = isinstance(value, dict) and set(value) <= set(GROUPS)
    if known and all(inner(item) is None for item in value.values()):
        return None
    return f"a mapping of {', '.join(GROUPS)} to {inner(object())}"


def subdomains(value: Any) -> str | None:
    """A list of sub-domains."""
    if isinstance(value, list) and all(item in SUBDOMAINS for item in value):
        return None
    return f"a list of {', '.join(SUBDOMAINS)}"


def flag(value: Any) -> str | None:
    """true or false."""
    return None if isinstance(value, bool) else "true or false"


SCHEMA: dict[str, Check] = {
    "data.examples": number(32, 1_000_000, whole=True),
    "data.mixture": mixture,
    "data.trace.style": one_of(*STYLES),
    "data.trace.fraction": number(0, 1),
    "data.trace.domains": domains(one_of(*STYLES)),
    "data.equation_operators": one_of("narrow", "broad"),
    "data.augment.reorder_examples": number(0, 1),
    "data.augment.extra_example": number(0, 1),
    "data.augment.perturb_numbers": number(0, 1),
    "data.filter.dedupe": flag,
    "data.filter.resolve": flag,
    "data.filter.difficulty": one_of("all", "easy", "hard"),
    "data.filter.max_chars": optional(number(20, 100_000, whole=True)),
    "data.order": one_of("shuffled", "easy_first"),
    "train.steps": number(1, 1_000_000, whole=True),
    "train.batch_size": number(1, 4096, whole=True),
    "train.packing": flag,
    "train.learning_rate": number(0, 10),
    "train.schedule.shape": one_of("cosine", "linear", "constant", "wsd"),
    "train.schedule.warmup": number(0, 1),
    "train.schedule.final": number(0, 1),
    "train.optimizer.weight_decay": number(0, 10),
    "train.optimizer.clip": number(0, 1000),
    "train.optimizer.beta1": number(0, 0.9999),
    "train.optimizer.beta2": number(0, 0.99999),
    "train.lora.rank": number(1, 32, whole=True),
    "train.lora.alpha": number(0.01, 1024),
    "train.lora.dropout": number(0, 0.9),
    "train.lora.targets": targets,
    "train.loss.mask": one_of("completion", "answer", "all"),
    "train.loss.domain_weights": weights,
    "train.checkpoints": number(1, 100, whole=True),
    "select.criterion": one_of("dev", "reweighted", "last"),
    "select.weights": weights,
}
OPTIONAL: dict[str, Check] = {
    "data.real.share": number(0, 1),
    "data.real.domains": domains(number(0, 1)),
    "data.real.repeat": number(1, 100, whole=True),
    "data.real.unsolved": one_of("answer", "drop"),
    "data.real.skip": subdomains,
    "train.lora.ranks": ranks,
    "train.stages.rft": number(0, 1),
    "train.stages.dpo": number(0, 1),
    "train.stages.grpo": number(0, 1),
    "train.rl.rounds": number(1, 100, whole=True),
    "train.rl.samples": number(2, 256, whole=True),
    "train.rl.sampled": number(0.05, 0.9),
    "train.rl.temperature": number(0.05, 5),
    "train.rl.max_new": optional(number(1, 100_000, whole=True)),
    "train.rl.keep": one_of("all", "unique", "shortest"),
    "train.rl.mix": number(0, 1),
    "train.rl.learning_rate": number(0, 10),
    "train.rl.beta": number(0.001, 100),
    "train.rl.kl": number(0, 100),
    "train.rl.clip": number(0.01, 100),
    "train.rl.updates": number(1, 16, whole=True),
    "train.rl.length_penalty": number(0, 1),
}


def load_recipe(path: Path | str) -> dict[str, Any]:
    """Reads and checks a recipe; returns it as nested mappings.

    Raises:
        RecipeError: not readable, or any keys missing, unknown or out of range: all of them, each
            with its value and what it may be.
    """
    try:
        recipe = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise RecipeError(f"{path}: not a mapping of sections")
    given = _flatten(recipe)
    problems = [f"{key} is missing" for key in SCHEMA if key not in given]
    problems += [f"{key} is unknown" for key in given if key not in SCHEMA | OPTIONAL]
    for key, check in (SCHEMA | OPTIONAL).items():
        wanted = check(given[key]) if key in given else None
        if wanted:
            problems.append(f"{key}={given[key]!r} must be {wanted}{_hint(given[key])}")
    shares = [given.get(f"train.stages.{method}", 0) for method in METHODS]
    if not problems and sum(shares) > 1 + 1e-9:
        problems.append(f"train.stages are {sum(shares):g} of the budget, more than all of it")
    if problems:
        raise RecipeError(f"{path}: " + "; ".join(problems))
    return recipe


def _hint(value: Any) -> str:
    """YAML reads 3e-3 as text: a number with an exponent needs a decimal point."""
    short = re.fullmatch(r"([+-]?\d+)([eE][+-]?\d+)", value) if isinstance(value, str) else None
    return f" (write {short[1]}.0{short[2]})" if short else ""


def _flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in section.items():
        name = f"{prefix}{key}"
        inner = any(known.startswith(name + ".") for known in SCHEMA | OPTIONAL)
        if inner and isinstance(value, dict):
            flat |= _flatten(value, name + ".")
        else:
            flat[name] = value
    return flat
