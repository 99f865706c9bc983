"""plan.yaml: one round's candidates, axes and seeds, derived from the policy; written once."""

from typing import Literal

from aevo.files.documents import Part, Record
from aevo.records.policy import AxisBrief


class Budget(Part):
    """What one candidate may spend. `wall_s` leaves out what it waited for the scheduler;
    `failures` are failed tool calls in a row, `shell_s` processor seconds of its shell,
    `questions` calls of `ask` and `read`; null is no
    limit."""

    trainings: int
    turns: int
    wall_s: int
    tokens: int | None = None
    dollars: float | None = None
    gpu_hours: float | None = None
    failures: int = 12
    shell_s: int | None = None
    questions: int = 20


class CandidatePlan(Part):
    """One candidate. `seeds` are out of the worker's reach: the anchor's run i+1 takes `seeds[i]`;
    an explorer's takes the first, and one of a fork that it ran already the next. `trainings` is
    what the policy allots it, None for the budget's."""

    id: str
    role: Literal["anchor", "explorer"]
    axis: AxisBrief | None
    seeds: list[int]
    agent_seed: int
    trainings: int | None = None


class Plan(Record):
    """The plan of a round."""

    round: int
    campaign: str
    policy_sha256: str
    substrate_sha256: str
    standing_recipe_sha256: str
    budget: Budget
    candidates: list[CandidatePlan]

    def candidate(self, name: str) -> CandidatePlan:
        """The candidate of that id; KeyError if the plan has none."""
        for candidate in self.candidates:
            if candidate.id == name:
                return candidate
        raise KeyError(name)


class Cancelled(Record):
    """`time` is Unix seconds, `by` the user's name."""

    candidate: str
    time: float
    by: str
