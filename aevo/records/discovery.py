"""discoveries.jsonl: what the campaign learned, append-only, each entry with its provenance."""

from typing import Literal

from aevo.files.documents import Part
from aevo.records.policy import Provenance


class Discovery(Part):
    """One entry. `id` is unique in the log; a repeated append of the same id is a no-op."""

    id: str
    round: int
    kind: Literal[
        "promotion", "demotion", "dead_end", "noise", "divergence", "mode", "rotation", "summary"
    ]
    text: str
    provenance: Provenance
