"""conf/policy: what the operator sets of the first search policy."""

from pydantic import Field

from aevo.files import documents
from aevo.records.policy import SearchMode


class PolicySettings(documents.Part):
    """What the operator decides before round 1 (conf/policy); later rounds come from evidence.

    `axes` names catalogue axes in order of priority (empty: the catalogue's `first`); those not
    named follow in catalogue order.
    """

    mode: SearchMode = "recipe_stabilisation"
    axes: list[str] = []
    promotion_threshold: float = Field(default=0.01, gt=0, lt=1)
    seed_band: float = Field(default=0.02, gt=0, lt=1)
    lb_noise: float = Field(default=0.01, gt=0, lt=1)
    lb_threshold: float = Field(default=0.02, gt=0, lt=1)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    promotions_per_round: int = Field(default=1, ge=1)
    stack_up_to: int = Field(default=3, ge=0)
    stacks_per_round: int = Field(default=5, ge=1)
    likely_per_round: int = Field(default=1, ge=0)
    reason: str = "the operator's start: basic training levers first"
