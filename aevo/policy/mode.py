"""The search mode and objective that a round's evidence leads to."""

from aevo.records.evidence import Calibration, Evidence
from aevo.records.policy import Objective, Policy, SearchMode
from aevo.statistics.transfer import HALF

TRUSTED_SLOPE = 0.5  # LB gain per dev gain, at least, that gives dev back its standing
LEAST_WEIGHT = 0.25  # no domain is weighed down to nothing


def next_mode(evidence: Evidence, policy: Policy) -> tuple[SearchMode, Objective, str]:
    """Search mode and objective of the next round, and why."""
    found, weak = evidence.calibration, evidence.patterns.weak_domain
    if found.verdict == "not_evidence":
        return "transfer", "maximise_transfer", f"dev is no longer evidence: {found.reason}"
    if policy.objective == "maximise_transfer":
        if not dev_regained(evidence):
            reason = "dev has not regained its standing as evidence since it lost it"
            return "transfer", "maximise_transfer", reason
        reason = f"LB gains follow dev gains again: slope at least {found.slope_low:.2f}"
        return "stack_and_calibrate", "maximise_dev", reason
    if found.verdict == "suspect":
        reason = f"dev is suspect, so gains are replicated and calibrated: {found.reason}"
        return "stack_and_calibrate", "maximise_dev", reason
    if policy.mode == "recipe_stabilisation" or weak is None:
        start = "no domain is visibly weak" if weak is None else "the basic levers are measured"
        reason = f"{start}; promoted changes are stacked and small gains replicated"
        return "stack_and_calibrate", "maximise_dev", reason
    reason = f"dev is still evidence, and {weak} is its visibly weak domain"
    return "proxy_exploitation", "maximise_dev", reason


def dev_regained(evidence: Evidence) -> bool:
    """True if measured LB gains have followed dev gains over all submitted explorers (R3)."""
    found = evidence.calibration
    slope_low = found.slope_low if found.slope_low is not None else 0.0
    return found.verdict == "evidence" and slope_low > TRUSTED_SLOPE


def misleading_domain(found: Calibration) -> str | None:
    """The domain whose dev gains do not reach the leaderboard: the one that all rounds' probes say
    so of, else the one of most dev gain that the leaderboard did not confirm."""
    if found.source is not None and found.source_passed is not None and found.source_passed < HALF:
        return found.source
    leverage = {name: value for name, value in found.leverage.items() if value > 0}
    return max(sorted(leverage), key=lambda name: leverage[name]) if leverage else None


def leveraged_domain(evidence: Evidence) -> str | None:
    """The domain of most dev gain that the leaderboard did not confirm, if there is one."""
    leverage = {name: value for name, value in evidence.calibration.leverage.items() if value > 0}
    return max(sorted(leverage), key=lambda name: leverage[name]) if leverage else None
