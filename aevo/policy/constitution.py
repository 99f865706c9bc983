"""The checked rules of constitution.txt, one function each, and the verdict on a proposal.

Each function returns what breaks the rule, in words; an empty list means it holds.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from aevo.errors import RecordError, SubstrateError
from aevo.policy.briefs import brief_faults
from aevo.policy.mode import dev_regained
from aevo.policy.own import allotment_faults, knobs_with, own_faults
from aevo.policy.posterior import beliefs, trust
from aevo.policy.promotion import demoted, earned, likely_gain
from aevo.policy.rotation import (
    active,
    can_rest,
    categories_of,
    rotation_due,
    used_categories,
    with_entrant,
)
from aevo.records.discovery import Discovery
from aevo.records.evidence import SECTIONS, CandidateSummary, Evidence
from aevo.records.policy import AxisBrief, Policy, Provenance, StandingChange
from aevo.records.proposal import Proposal, RuleResult, Verdict
from aevo.statistics.effect import Estimate
from aevo.statistics.noise import EPSILON
from aevo.substrate.catalogue import (
    Catalogue,
    categories_needed,
    conflict,
    move_from,
    shared_knobs,
    stands,
    together,
    touches,
)


@dataclass(frozen=True)
class History:
    """What a proposal is judged against besides its evidence and the policy before it."""

    catalogue: Catalogue
    discoveries: tuple[Discovery, ...] = ()


@dataclass(frozen=True)
class Case:
    """One proposal with all that it is judged by."""

    proposal: Proposal
    evidence: Evidence
    previous: Policy
    history: History

    @property
    def policy(self) -> Policy:
        return self.proposal.policy

    @property
    def added(self) -> list[StandingChange]:
        """The standing changes beyond those that were kept of the previous policy."""
        return self.policy.standing[len(self.kept) :]

    @property
    def kept(self) -> list[StandingChange]:
        """What must be kept of the previous standing recipe: all but what the anchor lost by."""
        gone = demoted(self.evidence, self.previous)
        return [item for item in self.previous.standing if item not in gone]

    @cached_property
    def likely(self) -> Mapping[str, Estimate]:
        """Candidates of this round whose change may be built upon though not established."""
        return likely_gain(
            self.evidence, self.previous, self.history.catalogue, self.policy.objective
        )

    def source(self, change: StandingChange) -> CandidateSummary | None:
        """The candidate of this round that a promotion cites."""
        if change.provenance.round != self.evidence.round:
            return None
        for summary in self.evidence.candidates:
            if summary.candidate == change.provenance.candidate and summary.role == "explorer":
                return summary
        return None


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


@_rule("R12")
def one_axis_per_explorer(case: Case) -> list[str]:
    names = [axis.axis for axis in case.policy.axes]
    expected = len(case.evidence.candidates) - 1
    faults = [] if len(names) == expected else [f"{len(names)} axes for {expected} explorers"]
    return faults + [f"{name} is assigned twice" for name in _repeated(names)]


@_rule("R13")
def axes_are_orthogonal(case: Case) -> list[str]:
    axes = case.policy.axes
    faults = [
        f"{one.axis} and {other.axis} share {', '.join(shared_knobs(one.knobs, other.knobs))}"
        for index, one in enumerate(axes)
        for other in axes[index + 1 :]
        if shared_knobs(one.knobs, other.knobs)
    ]
    needed = categories_needed(len(axes), case.history.catalogue)
    catalogue = case.history.catalogue
    spanned = len({name for axis in axes for name in _spanned(catalogue, axis)})
    if spanned < needed:
        faults.append(f"the axes span {spanned} categories, {needed} are needed")
    return faults


def _spanned(catalogue: Catalogue, brief: AxisBrief) -> set[str]:
    """The categories that count for an axis: of a stack those of its moves, else its own."""
    return categories_of(catalogue, brief) if brief.combines else {brief.category}


@_rule("R14")
def categories_rotate_on_plateau(case: Case) -> list[str]:
    if not rotation_due(case.evidence):
        return []
    catalogue, n_axes = case.history.catalogue, len(case.previous.axes)
    before = set(used_categories(catalogue, case.previous.axes))
    after = set(used_categories(catalogue, case.policy.axes))
    possible = [name for name in sorted(before) if can_rest(catalogue, name, n_axes)]
    faults = []
    if possible and before <= after:
        faults.append("the leaderboard has plateaued, yet no category of this round rests")
    rested = [axis for axis in catalogue.axes if axis.category not in before - after]
    needed = categories_needed(n_axes, catalogue)
    if possible and not after - before and with_entrant(rested, before, n_axes, needed):
        faults.append("the leaderboard has plateaued, yet no idle category comes in")
    return faults


@_rule("R15")
def axes_are_the_catalogues(case: Case) -> list[str]:
    faults = []
    if case.policy.stack_up_to != case.previous.stack_up_to:
        faults.append("how many moves a stack combines is the operator's choice")
    if case.policy.stacks_per_round != case.previous.stacks_per_round:
        faults.append("how many candidates may be stacks is the operator's choice")
    if case.policy.likely_per_round != case.previous.likely_per_round:
        faults.append("how many changes may enter that are only likely is the operator's choice")
    if case.policy.trainings != case.previous.trainings:
        faults.append("how many trainings an explorer may start is the operator's choice")
    faults += allotment_faults(case.policy.axes, case.previous.trainings)
    for brief in case.policy.axes:
        axis = case.history.catalogue.axis(brief.axis)
        faults += own_faults(brief, case.history.catalogue, case.policy.tried)
        if brief.combines:
            faults += _bundle_faults(brief, case)
        elif axis is None:
            if not brief.knobs:
                faults.append(
                    f"{brief.axis} is not in the catalogue and states no knobs of its own"
                )
            if brief.moves:
                faults.append(
                    f"{brief.axis} is not in the catalogue, so it has no moves there: leave out "
                    f"`moves` ({', '.join(brief.moves)})"
                )
        else:
            knobs = knobs_with(axis.knobs, [own for own in brief.own if own.source])
            if (axis.category, knobs) != (brief.category, brief.knobs):
                faults.append(f"{brief.axis} differs from the catalogue in category or knobs")
            faults += [f"{brief.axis} has no move {m}" for m in brief.moves if axis.move(m) is None]
    return faults


def _bundle_faults(brief: AxisBrief, case: Case) -> list[str]:
    catalogue, count = case.history.catalogue, len(brief.combines)
    moves = catalogue.moves(brief.combines)
    if catalogue.axis(brief.axis) is not None or brief.moves or brief.own:
        return [f"{brief.axis} combines moves and is an axis of the catalogue or has its own"]
    if moves is None:
        named = ", ".join(f"{part.axis}/{part.move}" for part in brief.combines)
        return [f"{brief.axis} combines {named}, which are not all moves of the catalogue"]
    faults = []
    if not 2 <= count <= case.previous.stack_up_to:
        allowed = f"2 to {case.previous.stack_up_to}"
        faults.append(f"{brief.axis} combines {count} moves, {allowed} are allowed")
    clash = [
        c
        for i, one in enumerate(moves)
        for other in moves[i + 1 :]
        for c in conflict(one.change, other.change)
    ]
    if clash:
        faults.append(f"{brief.axis} combines moves that touch {', '.join(sorted(set(clash)))}")
    missing = set(touches(together(moves).change)) - set(brief.knobs)
    if missing:
        faults.append(f"{brief.axis} touches {', '.join(sorted(missing))}, which it does not state")
    return faults


@_rule("R16")
def nothing_dead_or_standing(case: Case) -> list[str]:
    new = case.policy
    dead = {(item.axis, item.move) for item in new.dont_waste_budget_on}
    faults = []
    for brief in new.axes:
        assigned = [(brief.axis, name) for name in brief.moves]
        assigned += [(part.axis, part.move) for part in brief.combines]
        assigned += [(brief.axis, own.id) for own in brief.own]
        stated = {own.id: move_from(own) for own in brief.own}
        for where, name in assigned:
            axis = case.history.catalogue.axis(where)
            move = stated.get(name) or (axis.move(name) if axis else None)
            if (where, name) in dead:
                faults.append(f"{where}/{name} is a dead end")
            elif move is not None and stands(move, new.standing):
                faults.append(f"{where}/{name} already stands")
    for item in active(new.retired, new.round):
        faults += [
            f"{brief.axis} is assigned though {item.axis or item.category} is retired"
            for brief in new.axes
            if brief.axis == item.axis
            or item.category in _spanned(case.history.catalogue, brief)
            or any(part.axis == item.axis for part in brief.combines)
        ]
    return faults


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
    return faults + [f"dead end {name} is listed twice" for name in _repeated([d.id for d in new])]


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


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
