"""Planning a round: candidates, axes and seeds, as a pure function of policy and campaign; and
making it: the plan's record and the forks.

    aevo.plan.candidates:main CAMPAIGN_FOLDER ROUND

is the job that plans a round whose policy did not exist when the campaign was submitted.
"""

import hashlib
from pathlib import Path

from aevo import cli
from aevo.config.schema import Config, ScriptedAgent
from aevo.errors import ConfigError, JobError, RecordError
from aevo.files import roundlog
from aevo.files.documents import finished, read, write_yaml
from aevo.files.paths import Layout
from aevo.plan.graph import candidate_ids
from aevo.plan.setup import OpenCampaign
from aevo.policy import chain
from aevo.policy import document as policies
from aevo.records.campaign import Campaign
from aevo.records.change import Change
from aevo.records.evidence import Evidence
from aevo.records.plan import Budget, CandidatePlan, Plan
from aevo.records.policy import AxisBrief, Policy


def main(arguments: list[str]) -> None:
    """Plans a round from its policy; does nothing that is done."""
    if len(arguments) != 2:
        raise ConfigError("wrong arguments", "python -m aevo.plan.candidates CAMPAIGN_FOLDER ROUND")
    number = int(arguments[1])
    ensure_plan(OpenCampaign.read(Layout(Path(arguments[0])), number), number)


def nothing_measured(layout: Layout, number: int) -> str | None:
    """Why a finished round measured nothing, or None if one of its candidates counts."""
    path = layout.round(number).evidence
    found = read(Evidence, path).candidates if path.exists() else []
    if not found or any(item.status == "ok" and item.dev is not None for item in found):
        return None
    causes = [f"{item.candidate}: {item.failure}" for item in found if item.failure]
    return f"every candidate of round {number} failed; {causes[0] if causes else ''}"


def ensure_plan(campaign: OpenCampaign, number: int) -> Plan:
    """The round's plan and forks, made if they are missing; the plan's record is written last.

    Raises:
        RecordError: the round's policy is missing, or a record was edited after its round had
            ended; JobError: the round before measured nothing; SubstrateError: the substrate was
            edited, or the standing recipe does not apply to it.
    """
    layout, substrate = campaign.layout, campaign.substrate
    files = layout.round(number)
    if not finished(Policy, layout.policy(number)):
        raise RecordError(
            f"{layout.policy(number)} is missing",
            f"round {number - 1} writes it: run `python -m aevo.round +round={number - 1}` first",
        )
    if finished(Plan, files.plan):
        return read(Plan, files.plan)
    chain.check(layout)
    if number > 1 and (cause := nothing_measured(layout, number - 1)):
        raise JobError(cause, f"python -m aevo.failures {layout.root} names them all")
    campaign.verify()
    rules = policies.read(layout, number)
    substrate.fork(files.standing, standing_changes(rules))
    plan = make_plan(
        campaign.config,
        campaign.record,
        rules,
        policies.digest(rules),
        substrate.recipe_sha256(files.standing),
    )
    for candidate in plan.candidates:
        substrate.fork(files.candidate(candidate.id).fork, [], source=files.standing)
    write_yaml(files.plan, plan, f"Plan of round {number}. Written once; do not edit.")
    roundlog.note(
        files.log,
        "round",
        f"{number} planned: {len(plan.candidates)} candidates, "
        f"mode {rules.mode}, objective {rules.objective}",
    )
    return plan


def standing_changes(rules: Policy) -> list[Change]:
    """What every fork of the round starts with: promoted changes, then checkpoint selection."""
    changes = [item.change for item in rules.standing]
    if rules.selection.criterion != "dev" or rules.selection.weights:
        changes.append(
            Change(
                set={
                    "select.criterion": rules.selection.criterion,
                    "select.weights": rules.selection.weights,
                }
            )
        )
    return changes


def derive_seed(seed: int, *purpose: object) -> int:
    """A seed (31 bits) for one purpose, independent of every other purpose's."""
    text = ":".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


def make_plan(
    config: Config, campaign: Campaign, policy: Policy, policy_sha256: str, standing_sha256: str
) -> Plan:
    """One anchor and one candidate per axis of the policy.

    All first runs of a round share one training seed, so that candidate and anchor differ in the
    recipe alone; the anchor's further runs take further seeds and give the noise band, and an
    explorer that runs an unchanged fork again takes those after it.

    Raises:
        ConfigError: the policy does not give exactly N-1 axes.
    """
    number = policy.round
    if len(policy.axes) != config.worker.n - 1:
        raise ConfigError(
            f"policy of round {number} has {len(policy.axes)} axes, worker.n={config.worker.n} "
            f"needs {config.worker.n - 1}",
            "worker.n is pinned when the campaign starts",
        )
    seeds = [
        derive_seed(config.seed, "train", number, replicate)
        for replicate in range(max(config.worker.anchor_seeds, 1))
    ]
    allotted = _allotted(policy, config.worker.trainings)
    axes: list[AxisBrief | None] = [None, *policy.axes]
    candidates = [
        CandidatePlan(
            id=name,
            role="explorer" if axis else "anchor",
            axis=axis,
            seeds=_seeds(config, number, index, axis, seeds),
            trainings=allotted.get(axis.axis) if axis else None,
            agent_seed=derive_seed(config.seed, "agent", number, axis.axis if axis else "anchor"),
        )
        for index, (name, axis) in enumerate(zip(candidate_ids(len(axes)), axes, strict=True))
    ]
    return Plan(
        round=number,
        campaign=campaign.name,
        policy_sha256=policy_sha256,
        substrate_sha256=campaign.pins.substrate,
        standing_recipe_sha256=standing_sha256,
        budget=Budget.model_validate(config.worker.model_dump(exclude={"n", "anchor_seeds"})),
        candidates=candidates,
    )


def _seeds(
    config: Config, number: int, index: int, axis: AxisBrief | None, common: list[int]
) -> list[int]:
    """Anchor and explorers share the round's seeds. Rules that have nothing left to try repeat the
    standing recipe, on a new seed: that adds to the noise estimate. A language model without moves
    of the catalogue makes one of its own, which is compared like every other."""
    repeats = axis is not None and not (axis.moves or axis.combines or axis.own)
    if repeats and isinstance(config.agent, ScriptedAgent):
        return [derive_seed(config.seed, "train", number, len(common) + index)]
    more = range(len(common), axis.seeds if axis else 0)
    return [*common, *(derive_seed(config.seed, "train", number, place) for place in more)]


def _allotted(policy: Policy, each: int) -> dict[str, int]:
    """What the policy allots its axes beside the usual number of trainings. A command may have
    lowered that since: then nobody has more than it says."""
    asked = {axis.axis: axis.trainings for axis in policy.axes if axis.trainings is not None}
    if sum(asked.get(axis.axis, each) for axis in policy.axes) > each * len(policy.axes):
        return {name: min(count, each) for name, count in asked.items()}
    return asked


if __name__ == "__main__":
    cli.run(main)
