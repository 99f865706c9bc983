"""Which of a training stack's own ways to train and to evaluate a campaign uses.

A command of substrate.yaml may be one, or several by name; conf/trainer and conf/evaluator name
one of them and carry what it takes. The options fill the command's placeholders; aevo knows none of
them. How many processes a training has is the operator's choice, never a worker's.
"""

from typing import Any

from pydantic import PositiveInt

from aevo.files.documents import Part
from aevo.records.job import Resources


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


def placeholders(chosen: EvaluatorSettings) -> dict[str, Any]:
    """The options as a command's placeholders; booleans as YAML writes them."""
    return {
        key: str(value).lower() if isinstance(value, bool) else value
        for key, value in chosen.options.items()
    }
