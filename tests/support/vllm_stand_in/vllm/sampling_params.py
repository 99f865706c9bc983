"""`vllm.sampling_params` of 0.17.1, what of it is used."""

from dataclasses import dataclass, field
from enum import Enum


class RequestOutputKind(Enum):
    """When `step` reports on a request."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class SamplingParams:
    """Greedy at temperature 0."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 16
    stop_token_ids: list[int] = field(default_factory=list)
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}.")
        if self.temperature or self.detokenize or self.output_kind != RequestOutputKind.FINAL_ONLY:
            raise NotImplementedError("the stand-in decodes greedily, ids alone, whole answers")
