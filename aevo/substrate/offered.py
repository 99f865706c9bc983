"""Does the substrate offer the ways to train and to evaluate that were chosen?"""

from pathlib import Path
from typing import Any

from aevo.config.trainer import EvaluatorSettings, TrainerSettings
from aevo.errors import ConfigError
from aevo.files.paths import CHECKOUT
from aevo.files.plain import from_yaml
from aevo.records.job import Resources
from aevo.substrate.frozen import Substrate


def check_choices(
    substrate: Substrate, trainer: TrainerSettings, evaluator: EvaluatorSettings, needs: Resources
) -> None:
    """Finds a choice that the substrate does not offer, before anything runs.

    Args:
        needs: what the model asks for to be trained.

    Raises:
        ConfigError: naming what it does offer, or a trainer of one process for a model that needs
            several.
    """
    for key, commands, chosen in (
        ("trainer", ["train"], trainer),
        ("evaluator", ["evaluate", "baseline"], evaluator),
    ):
        for command in commands:
            known = substrate.variants(command)
            if known and chosen.name not in known:
                raise ConfigError(
                    f"{key}={chosen.name}: {substrate.root}/substrate.yaml has "
                    f"`{command}` as {', '.join(known)}",
                    f"choose {key}=NAME",
                )
            if not known and chosen.options and not _left_out(key, chosen):
                raise ConfigError(
                    f"{key}={chosen.name}: {substrate.root}/substrate.yaml has one "
                    f"`{command}`, which takes no options",
                    f"leave {key} out",
                )
    ranks = trainer.over(needs).ranks
    if ranks > 1 and not substrate.distributed("train", trainer.name):
        raise ConfigError(
            f"trainer={trainer.name} is one process, and the model's training asks "
            f"for {ranks} ranks",
            "choose a trainer of several (conf/trainer)",
        )


def _left_out(key: str, chosen: TrainerSettings | EvaluatorSettings) -> bool:
    """Whether it is what conf/ gives to whoever chooses nothing."""
    conf = CHECKOUT / "conf"
    defaults = _yaml(conf / "config.yaml")["defaults"]
    if {key: chosen.name} not in defaults:
        return False
    return bool(_yaml(conf / key / f"{chosen.name}.yaml")["options"] == chosen.options)


def _yaml(path: Path) -> Any:
    return from_yaml(path.read_bytes(), str(path))
