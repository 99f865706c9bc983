"""From what a meta step decides to a complete proposal.

Rules and language model decide the same things, a `Decision`. What follows from it and from the
records (the standing recipe, ledgers, provenance, what the discovery log says) is computed here,
once, so that the log reads alike whoever proposed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aevo.policy.posterior import beliefs, trust
from aevo.policy.promotion import demoted, departure
from aevo.records.discovery import Discovery
from aevo.records.evidence import Evidence
from aevo.records.policy import (
    MODE_TITLES,
    AxisBrief,
    DeadEnd,
    NoiseRule,
    Objective,
    Policy,
    Provenance,
    RetiredAxis,
    SearchMode,
    Selection,
    StandingChange,
    Trial,
)
from aevo.records.proposal import Proposal
from aevo.statistics.figures import shown


@dataclass(frozen=True)
class Remark:
    """An entry for the discovery log that does not follow from the policy itself."""

    kind: str
    name: str
    text: str
    provenance: Provenance


@dataclass(frozen=True)
class Decision:
    """What a meta step decides after a round. `promotions`, `dead_ends` and `trials` are those of
    the round; `retired` and all else are as they are to be from now on."""

    mode: SearchMode
    objective: Objective
    reason: str
    promotions: Sequence[StandingChange]
    dead_ends: Sequence[DeadEnd]
    trials: Sequence[Trial]
    axes: Sequence[AxisBrief]
    retired: Sequence[RetiredAxis]
    noise: NoiseRule
    selection: Selection
    remarks: Sequence[Remark]


def assemble(chosen: Decision, evidence: Evidence, old: Policy, author: str) -> Proposal:
    """The next policy and the entries of the discovery log, whose ids are unique in a campaign."""
    gone = demoted(evidence, old)
    standing = [*(item for item in old.standing if item not in gone), *chosen.promotions]
    tried = [*old.tried, *chosen.trials]
    policy = Policy(
        round=evidence.round + 1,
        mode=chosen.mode,
        mode_reason=chosen.reason,
        objective=chosen.objective,
        standing=standing,
        axes=list(chosen.axes),
        stack_up_to=old.stack_up_to,
        stacks_per_round=old.stacks_per_round,
        likely_per_round=old.likely_per_round,
        trainings=old.trainings,
        noise=chosen.noise,
        selection=chosen.selection,
        retired=list(chosen.retired),
        dont_waste_budget_on=[*old.dont_waste_budget_on, *chosen.dead_ends],
        tried=tried,
        beliefs=beliefs(tried, standing, trust(evidence.calibration, chosen.objective)),
        provenance=[*old.provenance, headline(evidence)],
    )
    remarks = [*_from_trials(chosen, evidence, gone), *_from_policies(chosen, evidence, old)]
    number = evidence.round
    log = [
        Discovery.model_validate(
            {
                "id": f"r{number:02d}/{item.kind}/{item.name}",
                "round": number,
                "kind": item.kind,
                "text": item.text,
                "provenance": item.provenance,
            }
        )
        for item in remarks
    ]
    return Proposal(author=author, policy=policy, discoveries=log)


def headline(evidence: Evidence) -> Provenance:
    """The round in one figure."""
    best_dev, best_lb = evidence.calibration.best_dev, evidence.calibration.best_lb
    dev = "n/a" if best_dev is None else f"{best_dev:.4f}"
    lb = "n/a" if best_lb is None else shown(best_lb)
    figure = f"best dev {dev}, best LB {lb}, dev is {evidence.calibration.verdict}"
    return Provenance(round=evidence.round, figure=figure)


def _from_trials(
    chosen: Decision, evidence: Evidence, gone: Sequence[StandingChange]
) -> Iterator[Remark]:
    for item in chosen.promotions:
        text = f"Promoted {item.change.summary()} ({item.axis}) into the standing recipe."
        yield Remark("promotion", item.id, text, item.provenance)
    for item in gone:
        yield Remark("demotion", item.id, *departure(evidence, item))
    for dead in chosen.dead_ends:
        text = f"Don't waste budget on {dead.axis} / {dead.move}: {dead.what}."
        yield Remark("dead_end", dead.id, text, dead.provenance)


def _from_policies(chosen: Decision, evidence: Evidence, old: Policy) -> Iterator[Remark]:
    """What became of thresholds and mode, between what was learned of dev and all other remarks."""
    thresholds = _thresholds(old.noise, chosen.noise)
    if thresholds:
        yield Remark("noise", "threshold", thresholds, chosen.noise.provenance)
    yield from (item for item in chosen.remarks if item.kind == "divergence")
    if chosen.mode != old.mode:
        text = (
            f"From {MODE_TITLES[old.mode]} to {MODE_TITLES[chosen.mode]} "
            f"(objective {chosen.objective}): {chosen.reason}."
        )
        yield Remark("mode", chosen.mode, text, headline(evidence))
    yield from (item for item in chosen.remarks if item.kind != "divergence")


def _thresholds(old: NoiseRule, new: NoiseRule) -> str:
    changes = [
        (
            "The promotion threshold is",
            f"{new.promotion_threshold:.4f}",
            f"{old.promotion_threshold:.4f}",
        ),
        ("The leaderboard threshold is", f"{new.lb_threshold:g}", f"{old.lb_threshold:g}"),
        ("Promotions a round:", f"{new.promotions_per_round}", f"{old.promotions_per_round}"),
    ]
    return " ".join(f"{what} {now} (was {was})." for what, now, was in changes if now != was)
