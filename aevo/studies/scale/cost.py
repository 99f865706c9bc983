"""GPU-hours and file traffic of a round: the anchor's seeds, the explorers' trainings, an
evaluation of every checkpoint on dev, and the leaderboard's."""

from dataclasses import dataclass
from typing import Any

from aevo.config.leaderboard import HoldoutSettings
from aevo.config.schema import Config
from aevo.studies.scale import storage
from aevo.studies.scale.answering import Evaluation
from aevo.studies.scale.architecture import Architecture
from aevo.studies.scale.assumptions import Assumptions
from aevo.studies.scale.parallel import Division, resources
from aevo.studies.scale.steptime import Step

HOUR, GB = 3600.0, 1e9


@dataclass(frozen=True)
class Job:
    """One kind of GPU job: seconds of wall clock, GPUs it holds, bytes of the base it reads."""

    seconds: float
    gpus: int
    reads: float

    @property
    def gpu_hours(self) -> float:
        return self.seconds / HOUR * self.gpus


@dataclass(frozen=True)
class Round:
    """A round. `trainings` are planned (one an explorer); `most` is what the budget allows."""

    trainings: int
    most: int
    submissions: int
    training: Job
    evaluation: Job
    leaderboard: Job

    def gpu_hours(self, trainings: int) -> float:
        """Each training is evaluated."""
        board = self.leaderboard.gpu_hours if self.submissions else 0.0
        return trainings * (self.training.gpu_hours + self.evaluation.gpu_hours) + board

    def reads(self, trainings: int) -> float:
        """Bytes of the base that are read."""
        board = self.leaderboard.reads if self.submissions else 0.0
        return trainings * (self.training.reads + self.evaluation.reads) + board


def of(
    config: Config,
    model: Architecture,
    layout: Division,
    recipe: dict[str, Any],
    step: Step,
    evaluation: Evaluation,
    assumed: Assumptions,
) -> Round:
    """The estimate for one configuration; `recipe` is the `train` section."""
    worker, board = config.worker, config.leaderboard
    seeds = max(worker.anchor_seeds, 1)
    submissions = min(board.quota, worker.n) if isinstance(board, HoldoutSettings) else 0
    reads = storage.read_by_training(model, layout)
    training = Job(
        _start(reads / layout.nodes, assumed) + recipe["steps"] * step.seconds,
        layout.nodes * layout.gpus,
        reads,
    )
    dev = recipe["checkpoints"] * evaluation.seconds(config.model.dev_items)
    hidden = submissions * evaluation.seconds(config.model.hidden_items)
    nodes = resources(config, "evaluate").nodes
    reads = storage.read_by_evaluation(model, evaluation.engines)
    begin = _start(reads / nodes, assumed)
    return Round(
        trainings=seeds + worker.n - 1,
        most=seeds + (worker.n - 1) * worker.trainings,
        submissions=submissions,
        training=training,
        evaluation=Job(begin + dev, evaluation.gpus, reads),
        leaderboard=Job(begin + hidden, evaluation.gpus, reads),
    )


def _start(reads: float, assumed: Assumptions) -> float:
    return assumed.start_s + reads / (assumed.read_gb_s * GB)
