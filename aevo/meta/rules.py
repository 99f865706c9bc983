"""The rule-based meta step: evidence and policy in, a proposal for the next round out.

Deterministic and pure. An LLM may take its place; the constitution judges both the same way.
"""


from collections.abc import Sequence

from aevo.policy.mode import LEAST_WEIGHT, leveraged_domain, next_mode
from aevo.policy.promotion import Judgement, departure, judge
from aevo.policy.rotation import Assignment, assign
from aevo.policy.worth import Situation
from aevo.records.discovery import Discovery
from aevo.records.evidence import VERDICTS, Evidence
from aevo.records.policy import (
    MODE_TITLES,
    NoiseRule,
    Objective,
    Policy,
    Provenance,
    Selection,
)
from aevo.records.proposal import Proposal
from aevo.statistics.figures import shown, signed
from aevo.substrate.catalogue import Catalogue

AUTHOR = "rules"


def propose(evidence: Evidence, policy: Policy, catalogue: Catalogue) -> Proposal:
    """The next round's policy and what the campaign learned from this one.

    Raises:
        ConfigError: the catalogue cannot give the axes that the constitution asks for.
    """
    mode, objective, mode_reason = next_mode(evidence, policy)
    judged = judge(evidence, policy, catalogue, objective)
    selection = _selection(evidence, policy, objective)
    situation = Situation(
        evidence=evidence,
        policy=policy,
        catalogue=catalogue,
        mode=mode,
        standing=[
            *(item for item in policy.standing if item not in judged.demotions),
            *judged.promotions,
        ],
        dead_ends=[*policy.dont_waste_budget_on, *judged.dead_ends],
        tried=[*policy.tried, *judged.trials],
        leveraged=leveraged_domain(evidence) or _lightest(selection),
    )
    assignment = assign(situation)
    proposed = Policy(
        round=evidence.round + 1,
        mode=mode,
        mode_reason=mode_reason,
        objective=objective,
        standing=list(situation.standing),
        axes=assignment.axes,
        stack_up_to=policy.stack_up_to,
        noise=_noise(evidence, policy),
        selection=selection,
        retired=assignment.retired,
        dont_waste_budget_on=list(situation.dead_ends),
        tried=list(situation.tried),
        provenance=[
            *policy.provenance,
            Provenance(round=evidence.round, figure=_headline(evidence)),
        ],
    )
    discoveries = _discoveries(evidence, policy, proposed, judged, assignment)
    return Proposal(author=AUTHOR, policy=proposed, discoveries=discoveries)


def _lightest(selection: Selection) -> str | None:
    """The domain that an earlier round weighed down most."""
    weights = selection.weights
    return min(sorted(weights), key=lambda name: weights[name]) if weights else None


def _selection(evidence: Evidence, policy: Policy, objective: Objective) -> Selection:
    """While dev misleads, checkpoints are chosen with less weight on what it misled by."""
    if objective == "maximise_dev":
        if policy.selection.criterion == "dev":
            return policy.selection
        provenance = Provenance(round=evidence.round, figure="dev regained its standing")
        return Selection(criterion="dev", provenance=provenance)
    leverage = {name: max(0.0, v) for name, v in evidence.calibration.leverage.items()}
    total = sum(leverage.values())
    if policy.selection.criterion == "reweighted" or total <= 0:
        return policy.selection
    weights = {n: round(max(LEAST_WEIGHT, 1 - v / total), 2) for n, v in leverage.items()}
    top = leveraged_domain(evidence)
    figure = f"{top} won {leverage[top or '']:+.4f} dev that the leaderboard did not confirm"
    return Selection(
        criterion="reweighted",
        weights=weights,
        provenance=Provenance(round=evidence.round, figure=figure),
    )


def _noise(evidence: Evidence, policy: Policy) -> NoiseRule:
    """The promotion threshold from the seeds' spread so far, never below the operator's prior."""
    found, rule = evidence.calibration, policy.noise
    if found.seed_sd is None or found.seed_sd == rule.seed_sd:
        return rule
    threshold = round(rule.prior * max(1.0, found.dev_band / rule.band_prior), 4)
    figure = (
        f"seed sd {found.seed_sd:.4f} over {found.seed_runs} anchor runs "
        f"(degrees of freedom: {found.seed_dof}; pooled with the prior)"
    )
    return rule.model_copy(
        update={
            "promotion_threshold": threshold,
            "seed_sd": found.seed_sd,
            "seed_runs": found.seed_runs,
            "provenance": Provenance(round=evidence.round, figure=figure),
        }
    )


def _headline(evidence: Evidence) -> str:
    best_dev, best_lb = evidence.calibration.best_dev, evidence.calibration.best_lb
    dev = "n/a" if best_dev is None else f"{best_dev:.4f}"
    lb = "n/a" if best_lb is None else shown(best_lb)
    return f"best dev {dev}, best LB {lb}, dev is {evidence.calibration.verdict}"


def _discoveries(
    evidence: Evidence, old: Policy, new: Policy, judged: Judgement, assignment: Assignment
) -> list[Discovery]:
    """What changed and why, in a fixed order; ids are unique within the campaign."""
    number, found = evidence.round, evidence.calibration
    log = _Log(number)
    for item in judged.promotions:
        text = f"Promoted {item.change.summary()} ({item.axis}) into the standing recipe."
        log.add("promotion", item.id, text, item.provenance)
    for item in judged.demotions:
        log.add("demotion", item.id, *departure(evidence, item))
    for dead in judged.dead_ends:
        text = f"Don't waste budget on {dead.axis} / {dead.move}: {dead.what}."
        log.add("dead_end", dead.id, text, dead.provenance)
    if new.noise.promotion_threshold != old.noise.promotion_threshold:
        text = (
            f"The promotion threshold is {new.noise.promotion_threshold:.4f} "
            f"(was {old.noise.promotion_threshold:.4f})."
        )
        log.add("noise", "threshold", text, new.noise.provenance)
    if found.verdict != "evidence" and not old.divergence_known:
        gains = f"dev {signed(found.dev_gain_of_round)}, LB {signed(found.lb_gain_of_round)}"
        text = f"{VERDICTS[found.verdict]}: {found.reason}."
        log.add("divergence", found.verdict, text, Provenance(round=number, figure=gains))
    if new.mode != old.mode:
        text = (
            f"From {MODE_TITLES[old.mode]} to {MODE_TITLES[new.mode]} "
            f"(objective {new.objective}): {new.mode_reason}."
        )
        log.add("mode", new.mode, text, Provenance(round=number, figure=_headline(evidence)))
    if assignment.resting:
        text = f"Axis categories rotate. Resting: {', '.join(assignment.resting)}; "
        text += f"coming in: {', '.join(assignment.entering) or 'none idle'}."
        figure = f"{found.plateau_rounds} rounds below the leaderboard threshold"
        log.add("rotation", "categories", text, Provenance(round=number, figure=figure))
    figure = _headline(evidence)
    text = f"{MODE_TITLES[old.mode]}: {_lesson(evidence, judged)}."
    log.add("summary", "round", text, Provenance(round=number, figure=figure))
    return log.entries


class _Log:
    """Collects a round's discoveries under ids made of round, kind and name."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.entries: list[Discovery] = []

    def add(self, kind: str, name: str, text: str, provenance: Provenance) -> None:
        self.entries.append(
            Discovery.model_validate(
                {
                    "id": f"r{self.number:02d}/{kind}/{name}",
                    "round": self.number,
                    "kind": kind,
                    "text": text,
                    "provenance": provenance,
                }
            )
        )


def _lesson(evidence: Evidence, judged: Judgement) -> str:
    """What the round taught, for the trajectory table: what holds, what hurt, what dev is worth."""
    if judged.promotions:
        names = [item.change.summary() for item in judged.promotions]
        held = f"{'; '.join(names)} held up on the leaderboard and now {_stand(names)}"
    else:
        held = "no change beat the anchor beyond noise"
    parts = [held]
    losses = [
        (item.comparison.gain, item.move or item.axis)
        for item in evidence.candidates
        if item.comparison is not None and item.comparison.beyond_band and item.comparison.gain < 0
    ]
    if losses:
        gain, what = min(losses)
        parts.append(f"{what} cost {-gain:.3f} of dev")
    found = evidence.calibration
    moved = f"dev {signed(found.dev_gain_of_round)}, LB {signed(found.lb_gain_of_round)}"
    parts.append(f"{VERDICTS[found.verdict].lower()} ({moved} in this round)")
    return "; ".join(parts)


def _stand(names: Sequence[str]) -> str:
    return "stands" if len(names) == 1 else "stand"
