"""inspection.json: the trusted look at a training run, before anything of it counts."""

from typing import Literal

from aevo.files.documents import Part, Record
from aevo.records.scores import TrainingResult

Match = Literal["exact", "embedded", "near"]


class Hit(Part):
    """One item found in the training data. Neither its text nor its answer is quoted: the report
    may be read by those who must not know the items."""

    item: str
    row: int  # line of the data file, counted from 1
    match: Match
    share: float  # of the item's distinctive text that the row holds, 0..1


class OverlapReport(Record):
    """Evaluation items found in one file of training data; each item counts once, in its strongest
    match. `complete` is False if the file was larger than what was read: then it is not clean."""

    data_sha256: str
    data_bytes: int
    rows: int
    items: int
    ngram: int
    exact: int = 0
    embedded: int = 0
    near: int = 0
    found: list[str] = []  # ids of the items, at most `FOUND`
    hits: list[Hit] = []  # the first ones, by row
    complete: bool = True
    seconds: float = 0.0

    @property
    def contaminated(self) -> int:
        """Number of items found."""
        return self.exact + self.embedded + self.near

    @property
    def clean(self) -> bool:
        """True if the whole file was read and holds no item."""
        return self.complete and not self.contaminated


class AdapterReport(Part):
    """An adapter folder that passed. `identities` are the digests by which an evaluation may name
    it: of the weights file alone, and of weights with rank and scale (substrate/default)."""

    kind: Literal["lora", "tensors"]
    weights_sha256: str
    config_sha256: str | None
    identities: list[str]
    bytes: int
    tensors: int
    parameters: int
    rank: int | None
    largest: float  # largest absolute value
    norm: float  # Frobenius norm of all tensors together
    ignored: list[str] = []  # small texts beside it, never copied


class AdapterProof(Part):
    """One checkpoint's adapter as it lies there after the run."""

    step: int
    path: str
    weights_sha256: str
    identities: list[str]


class RunProof(Record):
    """Binds a training run to the attempt of the job that made it.

    Everything is read by the trusted side from the job's records and from the files as they lie;
    nothing is taken from what the run says of itself. `started` and `ended` are Unix seconds, in
    the clock of the node that wrote the ledger; `ended` is None where the attempt left no end
    record (killed after its product was written).
    """

    job: str
    attempt: int
    slurm_job_id: str | None
    seed: int
    fork_sha256: str
    data_sha256: str | None
    result_sha256: str
    adapters: dict[str, AdapterProof]
    started: float | None
    ended: float | None


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
