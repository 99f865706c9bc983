"""Which of a training stack's own ways to train and to evaluate a campaign uses.

A command of substrate.yaml may be one, or several by name; conf/trainer and conf/evaluator name
one of them and carry what it takes. The options fill the command's placeholders; aevo knows none of
them. How many processes a training has is the operator's choice, never a worker's.
"""

from typing import Any

from pydantic import PositiveInt

from aevo.errors import ConfigError
from aevo.records.io import Part
from aevo.records.job import Resources
from aevo.substrate import Substrate


class EvaluatorSettings(Part):
    """conf/evaluator: `name` among the substrate's `evaluate` commands, and its options."""

    name: str
    options: dict[str, str | int | float | bool] = {}


class TrainerSettings(EvaluatorSettings):
    """conf/trainer: the same for `train`. `nodes` and `processes` (ranks a node) of a command that
    is `distributed`; null: what the model asks for."""

    nodes: PositiveInt | None = None
    processes: PositiveInt | None = None

    def over(self, resources: Resources) -> Resources:
        """What a training asks for."""
        given = {"nodes": self.nodes, "tasks_per_node": self.processes}
        return resources.model_copy(update={k: v for k, v in given.items() if v is not None})


def check_choices(substrate: Substrate, trainer: TrainerSettings,
                  evaluator: EvaluatorSettings, needs: Resources) -> None:
    """Finds a choice that the substrate does not offer, before anything runs.

    Args:
        needs: what the model asks for to be trained.

    Raises:
        ConfigError: naming what it does offer, or a trainer of one process for a model that needs
            several.
    """
    for key, commands, chosen in (("trainer", ["train"], trainer),
                                  ("evaluator", ["evaluate", "baseline"], evaluator)):
        for command in commands:
            known = substrate.variants(command)
            if known and chosen.name not in known:
                raise ConfigError(f"{key}={chosen.name}: {substrate.root}/substrate.yaml has "
                                  f"`{command}` as {', '.join(known)}", f"choose {key}=NAME")
            if not known and chosen.options:
                raise ConfigError(f"{key}={chosen.name}: {substrate.root}/substrate.yaml has one "
                                  f"`{command}`, which takes no options", f"leave {key} out")
    ranks = trainer.over(needs).ranks
    if ranks > 1 and not substrate.distributed("train", trainer.name):
        raise ConfigError(f"trainer={trainer.name} is one process, and the model's training asks "
                          f"for {ranks} ranks", "choose a trainer of several (conf/trainer)")


def placeholders(chosen: EvaluatorSettings) -> dict[str, Any]:
    """The options as a command's placeholders; booleans as YAML writes them."""
    return {key: str(value).lower() if isinstance(value, bool) else value
            for key, value in chosen.options.items()}
