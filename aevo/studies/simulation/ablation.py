"""aevo without one of its parts. The part is replaced between the stages of a simulated campaign;
production code has no switch for it."""

from dataclasses import replace

from aevo.evidence.inputs import CandidateFacts, RoundFacts
from aevo.records.evidence import CandidateSummary, Evidence
from aevo.records.policy import Policy
from aevo.studies.simulation.campaign import Parts


def stale_anchor(rounds: list[RoundFacts]) -> list[RoundFacts]:
    """No anchor after round 1: its scores stand in for those of every later round."""
    first = rounds[0]
    if len(rounds) == 1 or first.anchor is None or first.leaderboard is None:
        return rounds
    last = rounds[-1]
    old = first.anchor
    candidates = tuple(
        replace(old, plan=item.plan) if item.plan.role == "anchor" else item
        for item in last.candidates
    )
    board = last.leaderboard
    if board is not None:
        kept = [s for s in board.submissions if s.candidate != old.plan.id]
        scores = [s for s in first.leaderboard.submissions if s.candidate == old.plan.id]
        board = board.model_copy(update={"submissions": [*scores, *kept]})
    return [*rounds[:-1], replace(last, candidates=candidates, leaderboard=board)]


def single_anchor(rounds: list[RoundFacts]) -> list[RoundFacts]:
    """The anchor's further seeds are ignored."""
    last = rounds[-1]
    candidates: tuple[CandidateFacts, ...] = tuple(
        replace(item, replicates=()) for item in last.candidates
    )
    return [*rounds[:-1], replace(last, candidates=candidates)]


def unpaired(evidence: Evidence) -> Evidence:
    """No test: whatever exceeds the threshold counts."""
    return _with_effects(evidence, p_adjusted=0.0)


def _with_effects(evidence: Evidence, **update: float) -> Evidence:
    def changed(item: CandidateSummary) -> CandidateSummary:
        return item.model_copy(
            update={
                name: effect.model_copy(update=update)
                for name in ("effect", "external")
                if (effect := getattr(item, name)) is not None
            }
        )

    return evidence.model_copy(update={"candidates": [changed(i) for i in evidence.candidates]})


def trusting(evidence: Evidence) -> Evidence:
    """No divergence test: dev is always evidence."""
    found = evidence.calibration.model_copy(update={"verdict": "evidence"})
    return evidence.model_copy(update={"calibration": found})


def unrotated(evidence: Evidence) -> Evidence:
    """Plateaus are not noticed."""
    found = evidence.calibration.model_copy(update={"plateau_rounds": 0})
    return evidence.model_copy(update={"calibration": found})


def dev_only(evidence: Evidence) -> Evidence:
    """The leaderboard is not looked at: effects and verdict rest on dev alone."""

    def changed(item: CandidateSummary) -> CandidateSummary:
        if item.effect is None or item.readings is None:
            return item
        gain, se = item.readings.dev, item.readings.dev_se
        effect = item.effect.model_copy(
            update={
                "gain": gain,
                "se": se,
                "low": gain - 1.96 * se,
                "high": gain + 1.96 * se,
                "p_adjusted": min(1.0, 7 * _p(gain, se)),
                "basis": "dev",
            }
        )
        return item.model_copy(update={"effect": effect, "lb_gain": None, "external": None})

    evidence = evidence.model_copy(update={"candidates": [changed(i) for i in evidence.candidates]})
    return trusting(evidence)


def _p(gain: float, se: float) -> float:
    from aevo.statistics.paired import above_zero

    return above_zero(gain, se)


def without_stacks(policy: Policy) -> Policy:
    """Every candidate tries one move."""
    return policy.model_copy(update={"stack_up_to": 0})


def without_designs(policy: Policy) -> Policy:
    """One stack of what is likely a round, single moves beside it."""
    return policy.model_copy(update={"stacks_per_round": 1, "stack_up_to": 4})


def without_threshold(policy: Policy) -> Policy:
    """Whatever is better than the anchor at all is promoted."""
    noise = policy.noise.model_copy(update={"promotion_threshold": 0.0, "prior": 0.0, "alpha": 1.0})
    return policy.model_copy(update={"noise": noise})


ABLATIONS: dict[str, Parts] = {
    "without anchor": Parts(facts=stale_anchor, judged=False),
    "without anchor's second seed": Parts(facts=single_anchor, judged=False),
    "without tests": Parts(evidence=unpaired, judged=False),
    "without tests and threshold": Parts(policy=without_threshold, judged=False),
    "without divergence test": Parts(evidence=trusting, judged=False),
    "without leaderboard": Parts(evidence=dev_only, judged=False),
    "without stacks": Parts(policy=without_stacks),
    "without designs": Parts(policy=without_designs),
    "without rotation": Parts(evidence=unrotated, judged=False),
}
