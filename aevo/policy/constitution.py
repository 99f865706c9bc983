"""The checked rules of constitution.txt, one function each, and the verdict on a proposal.

Each function returns what breaks the rule, in words; an empty list means it holds.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from aevo.errors import RecordError, SubstrateError
from aevo.policy import assigned
from aevo.policy.assigned import repeated
from aevo.policy.briefs import brief_faults
from aevo.policy.case import Case, History
from aevo.policy.mode import dev_regained
from aevo.policy.posterior import beliefs, trust
from aevo.policy.promotion import demoted, earned
from aevo.records.evidence import SECTIONS, Evidence
from aevo.records.policy import Policy, Provenance
from aevo.records.proposal import Proposal, RuleResult, Verdict
from aevo.statistics.noise import EPSILON
from aevo.substrate.catalogue import conflict

Check = Callable[[Case], list[str]]
RULES: dict[str, Check] = {}


def _rule(name: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        RULES[name] = check
        return check

    return register


def check(
    proposal: Proposal, evidence: Evidence, previous_policy: Policy, history: History
) -> Verdict:
    """Applies every checked rule; the verdict lists each with its outcome."""
    case = Case(proposal, evidence, previous_policy, history)
    sha256 = hashlib.sha256(proposal.model_dump_json().encode()).hexdigest()
    return Verdict(proposal_sha256=sha256, rules=[apply(name, case) for name in RULES])


def apply(name: str, case: Case) -> RuleResult:
    """One rule applied to one case."""
    faults = RULES[name](case)
    return RuleResult(rule=name, passed=not faults, text="; ".join(faults) or "holds")


def load(path: Path, sha256: str) -> str:
    """The constitution's text, if it is the one the campaign pinned.

    Raises:
        RecordError: the file is missing.
        SubstrateError: its digest differs.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error})", "restore the constitution") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise SubstrateError(
            f"{path} has digest {found[:12]}, the campaign pinned {sha256[:12]}",
            "restore the constitution that the campaign started with",
        )
    return content.decode("utf-8")


def checked_rules(text: str) -> list[str]:
    """The ids that the text marks as checked."""
    return re.findall(r"^(R\d+) \[checked\]", text, flags=re.MULTILINE)


@_rule("R1")
def leaderboard_is_authoritative(case: Case) -> list[str]:
    noise = case.evidence.calibration.lb_noise
    faults = []
    for change in case.added:
        source = case.source(change)
        lb_gain = source.lb_gain if source else None
        if lb_gain is not None and lb_gain < -noise - EPSILON:
            faults.append(f"{change.id} is promoted with a leaderboard loss of {lb_gain:+.3f}")
    return faults


@_rule("R2")
def promotion_beyond_noise(case: Case) -> list[str]:
    rule, found = case.previous.noise, case.evidence.calibration
    faults = []
    for change in case.added:
        source = case.source(change)
        figure = earned(source, rule, found, case.policy.objective) if source else None
        if change.established and figure is None:
            faults.append(f"{change.id} has not earned promotion by this round's evidence")
        elif not change.established and (source is None or source.candidate not in case.likely):
            faults.append(f"{change.id} is not even likely to help by the posterior")
    return faults


@_rule("R3")
def divergence_sets_objective(case: Case) -> list[str]:
    new, found = case.policy, case.evidence.calibration
    faults = []
    transfer = new.objective == "maximise_transfer"
    if transfer != (new.mode == "transfer"):
        faults.append(f"objective {new.objective} does not go with mode {new.mode}")
    if found.verdict == "not_evidence" and not transfer:
        faults.append("dev is not evidence, yet the objective is maximise_dev")
    was = case.previous.objective == "maximise_transfer"
    if was and not transfer and not dev_regained(case.evidence):
        faults.append("dev is asked for again without having regained its standing")
    if transfer and not was and found.verdict != "not_evidence":
        faults.append(f"dev is abandoned though the verdict is {found.verdict}")
    leveraged = any(value > 0 for value in found.leverage.values())
    criterion = new.selection.criterion
    if transfer and found.verdict == "not_evidence" and leveraged and criterion == "dev":
        faults.append("checkpoints are still selected by raw dev")
    return faults


@_rule("R6")
def substrate_is_not_overwritten(case: Case) -> list[str]:
    kept = case.policy.standing[: len(case.kept)]
    faults = [] if kept == case.kept else ["earlier standing changes were altered"]
    faults += [
        f"{item.id} stays though the anchor lost by it"
        for item in demoted(case.evidence, case.previous)
        if item in case.policy.standing
    ]
    for change in case.added:
        source = case.source(change)
        if source is None:
            faults.append(f"{change.id} cites no explorer of round {case.evidence.round}")
        elif source.change != change.change:
            faults.append(f"{change.id} is not the change that {source.candidate} measured")
    return faults


@_rule("R7")
def promotions_are_few_and_disjoint(case: Case) -> list[str]:
    admitted = case.previous.noise.promotions_per_round
    claimed = sum(change.established for change in case.added)
    faults = []
    if claimed > admitted:
        faults.append(f"{claimed} changes are promoted, the noise rule admits {admitted}")
    if len(case.added) - claimed > case.previous.likely_per_round:
        faults.append(
            f"{len(case.added) - claimed} changes enter that are only likely, "
            f"{case.previous.likely_per_round} may"
        )
    return faults + [
        f"{one.id} and {other.id} both touch {', '.join(conflict(one.change, other.change))}"
        for index, one in enumerate(case.added)
        for other in case.added[index + 1 :]
        if conflict(one.change, other.change)
    ]


@_rule("R8")
def five_sections_and_one_anchor(case: Case) -> list[str]:
    missing = [name for name in SECTIONS if name not in Evidence.model_fields]
    faults = [f"the evidence lacks the section {name}" for name in missing]
    if not case.evidence.candidates:
        faults.append("the evidence has no candidates")
    anchors = [item for item in case.evidence.candidates if item.role == "anchor"]
    if len(anchors) != 1:
        faults.append(f"the evidence has {len(anchors)} anchors")
    return faults + [
        f"the anchor {item.candidate} changed its recipe"
        for item in anchors
        if not item.change.empty
    ]


@_rule("R9")
def next_round_only(case: Case) -> list[str]:
    expected, evidence = case.evidence.round + 1, case.evidence
    faults = []
    if case.policy.round != expected:
        faults.append(f"the policy is for round {case.policy.round}, not {expected}")
    if case.previous.round != evidence.round:
        faults.append(f"evidence of round {evidence.round}, policy of {case.previous.round}")
    return faults


@_rule("R11")
def briefs_carry_no_scores(case: Case) -> list[str]:
    catalogue = case.history.catalogue
    return [fault for brief in case.policy.axes for fault in brief_faults(brief, catalogue)]


for name, rule in (
    ("R12", assigned.one_axis_per_explorer),
    ("R13", assigned.axes_are_orthogonal),
    ("R14", assigned.categories_rotate_on_plateau),
    ("R15", assigned.axes_are_the_catalogues),
    ("R16", assigned.nothing_dead_or_standing),
):
    _rule(name)(rule)


@_rule("R19")
def dead_ends_only_grow(case: Case) -> list[str]:
    old, new = case.previous.dont_waste_budget_on, case.policy.dont_waste_budget_on
    faults = [f"dead end {item.id} was removed or altered" for item in old if item not in new]
    candidates = {item.candidate for item in case.evidence.candidates}
    for item in new:
        if item in old:
            continue
        cited = item.provenance
        if cited.round != case.evidence.round or cited.candidate not in candidates:
            faults.append(f"dead end {item.id} cites no candidate of this round")
        elif not cited.figure.strip():
            faults.append(f"dead end {item.id} rests on no figure")
    return faults + [f"dead end {name} is listed twice" for name in repeated([d.id for d in new])]


@_rule("R20")
def noise_rules_change_by_evidence(case: Case) -> list[str]:
    old, new, found = case.previous.noise, case.policy.noise, case.evidence.calibration
    faults = []
    priors = [(rule.prior, rule.band_prior, rule.lb_prior) for rule in (old, new)]
    if priors[0] != priors[1]:
        faults.append("the operator's priors were changed")
    if new.promotion_threshold < old.prior - EPSILON:
        faults.append(f"the promotion threshold {new.promotion_threshold:g} is below the prior")
    if new == old:
        return faults
    if new.provenance.round != case.evidence.round or not new.provenance.figure.strip():
        faults.append("the noise rules changed without a measurement of this round")
    if new.seed_sd != found.seed_sd:
        faults.append(f"seed sd {new.seed_sd} is not the measured {found.seed_sd}")
    return faults


@_rule("R21")
def selection_weighs_known_domains(case: Case) -> list[str]:
    weights = case.policy.selection.weights
    known = {name for item in case.evidence.candidates for name in item.domains}
    unknown = sorted(weights.keys() - known)
    faults = [f"unknown domains are weighed: {', '.join(unknown)}"] if unknown else []
    if any(value < 0 for value in weights.values()) or (weights and not any(weights.values())):
        faults.append("weights must not be negative nor all zero")
    return faults


@_rule("R22")
def everything_cites_provenance(case: Case) -> list[str]:
    new, number = case.policy, case.evidence.round
    cited: list[tuple[str, Provenance]] = [(d.id, d.provenance) for d in case.proposal.discoveries]
    cited += [("the noise rule", new.noise.provenance), ("selection", new.selection.provenance)]
    cited += [(item.id, item.provenance) for item in new.standing]
    faults = [
        f"{what} cites no figure of a round up to {number}"
        for what, item in cited
        if item.round > number or not item.figure.strip()
    ]
    if not any(item.round == number for item in new.provenance):
        faults.append(f"the policy does not cite round {number}")
    known = {entry.id for entry in case.history.discoveries if entry.round < number}
    taken = [entry.id for entry in case.proposal.discoveries if entry.id in known]
    return faults + [f"discovery {name} is already in the log" for name in taken]


@_rule("R24")
def beliefs_are_the_posterior(case: Case) -> list[str]:
    new = case.policy
    found = beliefs(new.tried, new.standing, trust(case.evidence.calibration, new.objective))
    return [] if found == new.beliefs else ["beliefs are not the posterior of the trials"]


@_rule("R25")
def flagged_runs_count_for_nothing(case: Case) -> list[str]:
    flagged = {item.candidate for item in case.evidence.candidates if item.flags}
    number = case.evidence.round
    cited = [(item.id, item.provenance) for item in case.added]
    old = case.previous.dont_waste_budget_on
    cited += [
        (f"dead end {item.id}", item.provenance)
        for item in case.policy.dont_waste_budget_on
        if item not in old
    ]
    return [
        f"{what} rests on {source.candidate}, whose run is flagged"
        for what, source in cited
        if source.round == number and source.candidate in flagged
    ]
