"""Planning a round: candidates, axes and seeds, as a pure function of policy and campaign."""

import hashlib

from aevo.config import Config
from aevo.errors import ConfigError
from aevo.records.campaign import Campaign
from aevo.records.plan import Budget, CandidatePlan, Plan
from aevo.records.policy import AxisBrief, Policy


def derive_seed(seed: int, *purpose: object) -> int:
    """A seed (31 bits) for one purpose, independent of every other purpose's."""
    text = ":".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


def make_plan(
    config: Config, campaign: Campaign, policy: Policy, policy_sha256: str, standing_sha256: str
) -> Plan:
    """One anchor and one candidate per axis of the policy.

    All first runs of a round share one training seed, so that candidate and anchor differ in the
    recipe alone; the anchor's further runs take further seeds and give the noise band.

    Raises:
        ConfigError: the policy does not give exactly N-1 axes.
    """
    number = policy.round
    if len(policy.axes) != config.worker.n - 1:
        raise ConfigError(
            f"policy of round {number} has {len(policy.axes)} axes, worker.n={config.worker.n} "
            f"needs {config.worker.n - 1}", "worker.n is pinned when the campaign starts",
        )
    seeds = [
        derive_seed(config.seed, "train", number, replicate)
        for replicate in range(max(config.worker.anchor_seeds, 1))
    ]
    axes: list[AxisBrief | None] = [None, *policy.axes]
    candidates = [
        CandidatePlan(
            id=f"c{index:02d}",
            role="explorer" if axis else "anchor",
            axis=axis,
            seeds=_seeds(config, number, index, axis, seeds),
            agent_seed=derive_seed(config.seed, "agent", number, axis.axis if axis else "anchor"),
        )
        for index, axis in enumerate(axes)
    ]
    return Plan(
        round=number, campaign=campaign.name, policy_sha256=policy_sha256,
        substrate_sha256=campaign.pins.substrate, standing_recipe_sha256=standing_sha256,
        budget=Budget(trainings=config.worker.trainings, turns=config.worker.turns,
                      wall_s=config.worker.wall_s),
        candidates=candidates,
    )


def _seeds(
    config: Config, number: int, index: int, axis: AxisBrief | None, common: list[int]
) -> list[int]:
    """The anchor takes all seeds, an explorer the first. An explorer whose axis has nothing left
    to try repeats the standing recipe, so it takes a new seed: that adds to the noise estimate."""
    if axis is None:
        return common
    if not axis.moves:
        return [derive_seed(config.seed, "train", number, len(common) + index)]
    return common[:1]
