"""What a language model hands in as the next policy, typed: the schema of the tool `propose`.

The model chooses; what can be computed is not asked for (`aevo.meta.proposing` adds it).
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from aevo.evidence.excerpts import LONGEST_CLAIM, excerpt
from aevo.files.documents import Part
from aevo.records.policy import MoveRef, Objective, SearchMode

_ONE_LINE = AfterValidator(lambda text: excerpt(text, len(text) + 1))
Name = Annotated[str, Field(min_length=1, max_length=80), _ONE_LINE]
Line = Annotated[str, Field(min_length=3, max_length=400), _ONE_LINE]
Cited = Annotated[
    str,
    Field(
        min_length=3,
        max_length=300,
        description=(
            "the measured figure this rests on, quoted from the evidence, e.g. 'dev +0.0400, "
            "LB +0.020'"
        ),
    ),
    _ONE_LINE,
]


class _Draft(Part):
    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        """Models send null for what they leave out."""
        if isinstance(value, dict):
            return {name: item for name, item in value.items() if item is not None}
        return value


class EditDraft(_Draft):
    """`find` must occur exactly once in the file; an empty one creates it."""

    file: Name
    find: str = Field(default="", max_length=4000)
    replace: str = Field(max_length=8000)


class MoveDraft(_Draft):
    """A move of your own: values of recipe keys, and patches of files that its axis names."""

    id: Name = Field(description="a short name that no other move has")
    set: dict[str, Any] = Field(default={}, description="dotted recipe keys and their values")
    patch: list[EditDraft] = Field(default=[], max_length=8)
    why: Line


class AxisDraft(_Draft):
    """An axis for the next round: one of the catalogue by its id, or one of your own."""

    axis: Name
    reason: Line = Field(description="why it is worth a trial; names no candidate")
    moves: list[Name] = Field(default=[], max_length=20, description="open moves, of the catalogue")
    category: Name | None = Field(default=None, description="needed for an axis of your own")
    brief: Line | None = Field(default=None, description="needed for an axis of your own")
    knobs: list[Name] = Field(default=[], max_length=20, description="recipe keys; for your own")
    combines: list[MoveRef] = Field(
        default=[],
        max_length=20,
        description="a stack: open moves of "
        "several axes to be tried together; no other field is needed",
    )
    transfer: bool = Field(default=False, description="of your own: may lower dev on purpose")
    own: list[MoveDraft] = Field(
        default=[],
        max_length=6,
        description="concrete moves of your own, on this axis's knobs, to be made exactly",
    )
    repeat: Name | None = Field(
        default=None,
        description="a change that was measured and not decided, by round and candidate "
        "(r01-c02): it is tried again as it was, with another seed; axis and reason alone are "
        "needed beside it",
    )
    trainings: int | None = Field(
        default=None, ge=1, le=64, description="left out: as many as every other axis"
    )
    seeds: int = Field(default=1, ge=1, le=16, description="on how many its change is measured")


class PromotionDraft(_Draft):
    """A candidate whose measured change enters the standing recipe."""

    candidate: Name
    figure: Cited


class DeadEndDraft(_Draft):
    """A move of this round that is not worth another trial."""

    candidate: Name
    move: Annotated[str, Field(min_length=1, max_length=LONGEST_CLAIM), _ONE_LINE] | None = Field(
        default=None, description="left out: what the candidate stands by"
    )
    what: Line = Field(description="what it did, in a few words")
    figure: Cited


class RetirementDraft(_Draft):
    """An axis retires until it is reinstated; a category rests for the next round."""

    axis: Name | None = None
    category: Name | None = None
    figure: Cited


class NoiseDraft(_Draft):
    """A revision of the noise rule; what is left out stays."""

    promotion_threshold: float | None = Field(default=None, gt=0, lt=1)
    lb_threshold: float | None = Field(default=None, gt=0, lt=1)
    promotions_per_round: int | None = Field(default=None, ge=1, le=3)
    figure: Cited


class SelectionDraft(_Draft):
    """How checkpoints are chosen from now on."""

    criterion: Literal["dev", "reweighted", "last"]
    weights: dict[str, float] = Field(default={}, description="per domain, for reweighted")
    figure: Cited


class Lesson(_Draft):
    """An entry of the discovery log. Promotions, dead ends, noise and mode are logged by code."""

    kind: Literal["divergence", "rotation", "summary"]
    text: Line
    candidate: Name | None = None
    figure: Cited


class Draft(_Draft):
    """The search policy of the next round."""

    mode: SearchMode
    objective: Objective
    reason: Line = Field(description="why this mode and objective, citing figures of the evidence")
    axes: list[AxisDraft] = Field(max_length=64)
    promotions: list[PromotionDraft] = []
    dead_ends: list[DeadEndDraft] = []
    retirements: list[RetirementDraft] = []
    reinstate: list[Name] = Field(default=[], description="retired axes to take up again")
    noise: NoiseDraft | None = Field(default=None, description="left out: as measured")
    selection: SelectionDraft | None = Field(default=None, description="left out: as it is")
    discoveries: list[Lesson] = Field(max_length=6, description="exactly one of kind summary")
