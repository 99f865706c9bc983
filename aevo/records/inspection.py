"""inspection.json: the trusted look at a training run, before anything of it counts."""

from aevo.records.integrity import OverlapReport, RunProof
from aevo.records.io import Record
from aevo.records.scores import TrainingResult


class Inspection(Record):
    """What of a run counts. `adapters` names the checkpoints that were taken, with the digests an
    evaluation may know them by; `refused` those that were not, and why. With `failure` nothing of
    the run counts. `proof` binds it to the attempt of the job that made it."""

    run: int
    result: TrainingResult | None
    failure: str | None = None
    proof: RunProof | None = None
    adapters: dict[str, list[str]] = {}
    refused: dict[str, str] = {}
    overlap: list[OverlapReport] = []
