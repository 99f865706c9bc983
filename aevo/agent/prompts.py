"""Prompts, from templates in `aevo/templates`; a value missing from one is an error."""

import jinja2

from aevo.axes import Move
from aevo.records.plan import CandidatePlan
from aevo.records.policy import Policy
from aevo.records.trace import Turn

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("aevo", "templates"),
    undefined=jinja2.StrictUndefined,
    autoescape=False,  # plain text for a model, not HTML
    keep_trailing_newline=False,
)


def opening(
    policy: Policy, candidate: CandidatePlan, mutable: list[str], moves: list[Move], check: str,
    trainings: int, turns: int,
) -> list[Turn]:
    """System and user turn of a worker: its axis and the standing recipe, nothing of any other
    candidate; of earlier rounds only what the policy says about this axis."""
    axis = candidate.axis
    dead_ends = [item for item in policy.dont_waste_budget_on if axis and item.axis == axis.axis]
    system = _ENVIRONMENT.get_template("worker_system.md.j2").render(
        mutable=mutable, trainings=trainings, turns=turns
    )
    task = _ENVIRONMENT.get_template("worker_task.md.j2").render(
        axis=axis, moves=moves, trainings=trainings, standing=policy.standing, check=check,
        dead_ends=dead_ends, objective=policy.objective.replace("_", " "),
    )
    return [Turn(role="system", content=system), Turn(role="user", content=task)]
