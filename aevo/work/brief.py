"""What a worker is told."""

from aevo.llm.prompts import render
from aevo.records.plan import CandidatePlan
from aevo.records.policy import Policy
from aevo.records.trace import Turn
from aevo.substrate.catalogue import Move


def first_turns(
    policy: Policy,
    candidate: CandidatePlan,
    mutable: list[str],
    moves: list[Move],
    check: str,
    trainings: int,
    turns: int,
    page: str = "",
) -> list[Turn]:
    """System and user turn of a worker: its axis and the standing recipe, nothing of any other
    candidate; of earlier rounds only what the policy says about this axis, and what `page` (see
    there) says of the standing recipe."""
    axis = candidate.axis
    dead_ends = [item for item in policy.dont_waste_budget_on if axis and item.axis == axis.axis]
    system = render(
        "work", "worker_system", mutable=mutable, trainings=trainings, turns=turns, page=page
    )
    task = render(
        "work",
        "worker_task",
        axis=axis,
        moves=moves,
        repeats=bool(axis and axis.own and all(move.source for move in axis.own)),
        trainings=trainings,
        standing=policy.standing,
        check=check,
        dead_ends=dead_ends,
        objective=policy.objective.replace("_", " "),
    )
    return [Turn(role="system", content=system), Turn(role="user", content=task)]
