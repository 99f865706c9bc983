"""The rule-based meta step: evidence and policy in, a proposal for the next round out.

Deterministic and pure. An LLM may take its place; the constitution judges both the same way.
"""

from collections.abc import Iterator, Sequence

from aevo.meta.assembly import Decision, Remark, assemble, headline
from aevo.policy.mode import LEAST_WEIGHT, leveraged_domain, next_mode
from aevo.policy.promotion import Judgement, judge
from aevo.policy.rotation import Assignment, assign
from aevo.policy.worth import Situation
from aevo.records.evidence import VERDICTS, Evidence
from aevo.records.policy import MODE_TITLES, NoiseRule, Objective, Policy, Provenance, Selection
from aevo.records.proposal import Proposal
from aevo.statistics.figures import signed
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
    chosen = Decision(
        mode=mode,
        objective=objective,
        reason=mode_reason,
        promotions=judged.promotions,
        dead_ends=judged.dead_ends,
        trials=judged.trials,
        axes=assignment.axes,
        retired=assignment.retired,
        noise=_noise(evidence, policy),
        selection=selection,
        remarks=list(_remarks(evidence, policy, judged, assignment)),
    )
    return assemble(chosen, evidence, policy, AUTHOR)


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


def _remarks(
    evidence: Evidence, policy: Policy, judged: Judgement, assignment: Assignment
) -> Iterator[Remark]:
    """What the round taught beyond its promotions, dead ends, thresholds and mode."""
    number, found = evidence.round, evidence.calibration
    if found.verdict != "evidence" and not policy.divergence_known:
        gains = f"dev {signed(found.dev_gain_of_round)}, LB {signed(found.lb_gain_of_round)}"
        text = f"{VERDICTS[found.verdict]}: {found.reason}."
        yield Remark("divergence", found.verdict, text, Provenance(round=number, figure=gains))
    if assignment.resting:
        text = f"Axis categories rotate. Resting: {', '.join(assignment.resting)}; "
        text += f"coming in: {', '.join(assignment.entering) or 'none idle'}."
        figure = f"{found.plateau_rounds} rounds below the leaderboard threshold"
        yield Remark("rotation", "categories", text, Provenance(round=number, figure=figure))
    text = f"{MODE_TITLES[policy.mode]}: {_lesson(evidence, judged)}."
    yield Remark("summary", "round", text, headline(evidence))


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
