"""What a training stack writes: a run's result.json, an evaluation's scores and predictions."""

from collections.abc import Mapping

from aevo.files.documents import Foreign, Part


class DomainScore(Part):
    """Accuracy (0..1) on the n items of one domain."""

    accuracy: float
    n: int


class DomainGain(Part):
    """What a candidate gained on the n items of one domain over the anchor's mean (accuracy), its
    standard error, and the part of it that another trial on the same items would repeat."""

    gain: float
    se: float
    shared: float = 0.0


def weighted_mean(domains: Mapping[str, DomainScore], weights: Mapping[str, float]) -> float:
    """Mean of domain accuracies; a domain without a weight counts 1. 0 if none has weight."""
    total = sum(weights.get(name, 1.0) for name in domains)
    score = sum(weights.get(name, 1.0) * item.accuracy for name, item in domains.items())
    return score / total if total else 0.0


class Score(Foreign):
    """One adapter on one item set. `dev` is the mean over items, whatever the set is called."""

    dev: float | None = None
    n: int = 0
    domains: dict[str, DomainScore] = {}
    boxed: float | None = None
    adapter_sha256: str | None = None
    error: str | None = None


class Scores(Foreign):
    """Scores of several adapters on the same items."""

    schema_version: int = 1
    items_sha256: str
    base_sha256: str
    scores: dict[str, Score]


class Checkpoint(Foreign):
    """A checkpoint left by a training run; `path` is relative to the run's folder."""

    step: int
    path: str


class TrainingResult(Foreign):
    """`train/<k>/result.json`, written last by the substrate's train command.

    `tokens` were trained on, `read` went through the model without learning (answers sampled for
    RL); both count against `budget`, which is set where they do.
    """

    schema_version: int = 1
    status: str
    steps: int
    checkpoints: list[Checkpoint]
    final_loss: float | None = None
    trainable_parameters: int = 0
    tokens: int = 0
    read: int = 0
    budget: int | None = None
    seconds: float = 0.0
    resumed_from: list[int] = []
    seed: int
    base_sha256: str
    data_sha256: str


class Prediction(Foreign):
    """One line of `<name>.predictions.jsonl`."""

    id: str
    domain: str
    output: str
    answer_given: str
    correct: bool
