"""Configurations that cannot work, found out before anything is submitted: what is sure of a scale
sheet, as refusals. Estimates of GPU memory and time stay the sheet's, to be read."""

from pathlib import Path

from aevo.config.schema import Config
from aevo.errors import ConfigError
from aevo.studies.scale import memory, parallel, sheet
from aevo.studies.scale.answering import way
from aevo.studies.scale.architecture import Architecture, parameters
from aevo.studies.scale.assumptions import Assumptions
from aevo.studies.scale.memory import GIB
from aevo.studies.scale.parallel import resources
from aevo.substrate.frozen import DEFAULT

LARGE = 10e9  # parameters above which transformers in fp32 is refused
THOUGHT = 512  # new tokens below which a model that thinks seldom comes to its answer
TEMPLATES = ("chat_template.jinja", "tokenizer_config.json")


def check(config: Config) -> None:
    """Refuses what would waste its GPU-hours. A stack of the user's own, or a model whose
    architecture is not known yet, is let through.

    Raises:
        ConfigError: the first reason, with the mend.
    """
    if config.substrate is not None:
        return
    try:
        model = sheet.find(config)
    except ConfigError:  # no config.json yet, or of a family whose weights are not known
        return
    _check_size(config, model)
    _check_length(config, model)
    _check_memory(config, model)


def _check_size(config: Config, model: Architecture) -> None:
    count, chosen = parameters(model), way(config)
    if config.evaluator.name not in ("auto", "hf") or chosen.number_bytes < 4 or count <= LARGE:
        return
    raise ConfigError(
        f"evaluator={config.evaluator.name} computes in fp32 with transformers, which for the "
        f"{count / 1e9:.0f}B parameters of {model.name} takes {count * 4 / GIB:.0f} GiB and days",
        "evaluator=vllm; or, as its oracle on few items, evaluator=hf "
        "evaluator.options.dtype=bfloat16 evaluator.options.max_tokens=7680",
    )


def _check_length(config: Config, model: Architecture) -> None:
    longest = way(config).longest
    if longest >= THOUGHT or not thinks(config, model):
        return
    mend = (
        "evaluator=vllm"
        if config.evaluator.name == "auto"
        else "evaluator.options.max_tokens=7680, the challenge's"
    )
    raise ConfigError(
        f"evaluator={config.evaluator.name} ends answers after {longest} new tokens: "
        f"{model.name} thinks first and would seldom come to its answer",
        mend,
    )


def thinks(config: Config, model: Architecture) -> bool:
    """Whether the chat template opens a thought; where there is none to look at, whether the model
    is one of Nemotron 3."""
    folder = Path(DEFAULT) / config.model.base
    found = [folder / name for name in TEMPLATES if (folder / name).is_file()]
    if not found:
        return model.name.startswith("nemotron3_")
    return any("<think>" in path.read_text(encoding="utf-8") for path in found)


def _check_memory(config: Config, model: Architecture) -> None:
    layout = parallel.of(config, model, parallel.standing_recipe(config), Assumptions())
    held = memory.of(model, layout, Assumptions())
    training = sheet.host_memory(model, layout, held) if layout.gpus else held.total
    _compare(config, "train", training)
    if config.evaluator.name in ("auto", "hf"):
        _compare(config, "evaluate", parameters(model) * way(config).number_bytes)


def _compare(config: Config, kind: str, needed: float | None) -> None:
    asked = resources(config, "train" if kind == "train" else "evaluate")
    given = asked.memory(asked.gpus)
    if given is None or needed is None or needed <= given * GIB:
        return
    raise ConfigError(
        f"{kind} asks for {given:g} GiB a node and needs {sheet.binary(needed)} while weights are "
        "read",
        f"give {1.25 * needed / GIB:.0f} or more: model.{kind}.memory_gb, or "
        f"cluster.{kind}.memory_gb where that is set",
    )
