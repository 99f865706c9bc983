"""From a model's draft to a complete proposal, and what is wrong with a draft.

The model chooses: mode, axes, which candidates to promote, what is a dead end, thresholds. Code
fills in all that can be computed: a promotion's change comes from the candidate's manifest, ids,
ledgers and provenance from the records. A figure that the model cites must be one of the evidence.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aevo.evidence.excerpts import excerpt
from aevo.evidence.quotes import (
    Figure,
    Sources,
    policy_figures,
    quotes_any,
    section_figures,
    sources,
    text_faults,
)
from aevo.meta.assembly import Decision, Remark, assemble
from aevo.meta.draft import AxisDraft, DeadEndDraft, Draft, NoiseDraft, SelectionDraft
from aevo.policy import bundles
from aevo.policy.own import repeated, trials_of
from aevo.policy.promotion import (
    dead_end,
    demoted,
    earned,
    judge,
    likely_figure,
    likely_gain,
    promoted,
    reversed_end,
    selected_move,
)
from aevo.records.change import Edit
from aevo.records.evidence import CandidateSummary, Evidence
from aevo.records.policy import (
    AxisBrief,
    DeadEnd,
    NoiseRule,
    Objective,
    OwnMove,
    Policy,
    Provenance,
    RetiredAxis,
    Selection,
    StandingChange,
    Trial,
)
from aevo.records.proposal import Proposal
from aevo.substrate.catalogue import Catalogue

RULES = tuple(f"R{number}" for number in range(1, 25))  # names a text may mention


@dataclass(frozen=True)
class Question:
    """What a draft answers: the round's evidence and policy, the catalogue, and the rules' own
    proposal, which supplies what a draft leaves out."""

    evidence: Evidence
    policy: Policy
    catalogue: Catalogue
    rules: Proposal

    def explorer(self, name: str) -> CandidateSummary | None:
        """The explorer of that id."""
        found = (c for c in self.evidence.candidates if c.candidate == name)
        return next((c for c in found if c.role == "explorer"), None)

    @property
    def extended(self) -> Catalogue:
        """The catalogue with the round's stacks."""
        return self.catalogue.with_briefs(self.policy.axes)

    def earned(self, item: CandidateSummary, objective: Objective) -> str | None:
        """The figure by which it may be promoted (constitution R1, R2)."""
        return earned(item, self.policy.noise, self.evidence.calibration, objective)


def to_proposal(draft: Draft, asked: Question, author: str) -> Proposal:
    """The complete proposal. What `form_faults` objects to is in it where it can be, so that the
    constitution judges the rest in the same try; such a proposal is refused all the same."""
    evidence, old = asked.evidence, asked.policy
    added = _promotions(draft, asked)
    gone = demoted(evidence, old)
    dead = [*(reversed_end(evidence, item) for item in gone), *_dead_ends(draft, asked)]
    chosen = Decision(
        mode=draft.mode,
        objective=draft.objective,
        reason=draft.reason.rstrip(". "),
        promotions=added,
        dead_ends=dead,
        trials=list(_trials(draft, asked, added, dead)),
        axes=[_axis(item, asked, draft.objective) for item in draft.axes],
        retired=_retired(draft, asked),
        noise=_noise(draft.noise, asked) if draft.noise else asked.rules.policy.noise,
        selection=_selection(draft.selection, evidence.round) if draft.selection else old.selection,
        remarks=list(_remarks(draft, evidence.round)),
    )
    return assemble(chosen, evidence, old, author)


def form_faults(draft: Draft, asked: Question) -> list[str]:
    """What keeps a draft from becoming a proposal, or would make it harm a later round."""
    faults = []
    for item in draft.axes:
        if item.combines and asked.catalogue.moves(item.combines) is None:
            faults.append(f"axis {item.axis} combines what the catalogue does not have")
        elif item.repeat is not None:
            known = repeatable(asked, draft.objective)
            trial = known.get(item.repeat)
            if trial is None:
                faults.append(
                    f"axis {item.axis} repeats {item.repeat}; what may be repeated: "
                    f"{', '.join(known) or 'nothing yet'}"
                )
            elif trial.axis != item.axis:
                faults.append(f"{item.repeat} was measured on axis {trial.axis}: name that axis")
        elif (
            not item.combines
            and asked.catalogue.axis(item.axis) is None
            and not (item.category and item.brief and item.knobs)
        ):
            faults.append(
                f"axis {item.axis} is not in the catalogue: it needs category, brief "
                "and knobs of its own"
            )
    promoted = [item.candidate for item in draft.promotions]
    faults += [
        f"{name} is no explorer of this round" for name in promoted if asked.explorer(name) is None
    ]
    if len(set(promoted)) < len(promoted):
        faults.append("a candidate is promoted twice")
    faults += _dead_end_faults(draft, asked, promoted)
    faults += [
        f"a retirement names one axis or one category, not {item.axis}/{item.category}"
        for item in draft.retirements
        if bool(item.axis) == bool(item.category)
    ]
    noise, chance = draft.noise, asked.evidence.calibration.lb_noise
    if noise and noise.lb_threshold is not None and noise.lb_threshold <= chance:
        faults.append(
            f"lb_threshold {noise.lb_threshold:g} lies within the leaderboard's noise "
            f"{chance:g}: chance would promote"
        )
    summaries = sum(item.kind == "summary" for item in draft.discoveries)
    if summaries != 1:
        faults.append(f"discoveries hold {summaries} entries of kind summary, not one")
    return faults


def _dead_end_faults(draft: Draft, asked: Question, promoted: list[str]) -> Iterator[str]:
    tried = _tried(asked, draft.objective)
    for item in draft.dead_ends:
        explorer = asked.explorer(item.candidate)
        name = _dead_name(item, asked)
        if explorer is None or (item.candidate, name) not in tried:
            moves = ", ".join(move for who, move in tried if who == item.candidate) or "none"
            yield f"{item.candidate} did not try {name}; its moves: {moves}"
        elif name == excerpt(selected_move(explorer, asked.extended)):
            if asked.earned(explorer, draft.objective):
                yield f"{item.candidate}'s {name} earned promotion: it is no dead end"
            elif item.candidate in promoted:
                yield f"{item.candidate}'s {name} is promoted and a dead end at once"


def _dead_name(item: DeadEndDraft, asked: Question) -> str:
    """The move meant: the one named, or what the candidate stands by."""
    explorer = asked.explorer(item.candidate)
    if item.move is not None or explorer is None:
        return item.move or ""
    return excerpt(selected_move(explorer, asked.extended))


def citation_faults(draft: Draft, asked: Question) -> list[str]:
    """Figures that the evidence does not have, and statements that rest on none."""
    known = _sources(draft, asked)
    faults = []
    for where, text, candidate in _citations(draft):
        if candidate is not None and candidate not in known.candidates:
            faults.append(f"{where}: {candidate} is no candidate of this round")
        if not quotes_any(text):
            faults.append(f"{where}: it quotes no figure")
        faults += [f"{where}: {f}" for f in text_faults(text, known, {candidate or ""})]
    changed = (draft.mode, draft.objective) != (asked.policy.mode, asked.policy.objective)
    if changed and not quotes_any(draft.reason):
        faults.append("reason: mode or objective change, and no figure is quoted for it")
    texts = [("reason", draft.reason, "")]
    texts += [(f"discovery {d.kind}", d.text, d.candidate or "") for d in draft.discoveries]
    texts += [(f"dead end of {d.candidate}", d.what, d.candidate) for d in draft.dead_ends]
    for where, text, candidate in texts:
        faults += [f"{where}: {fault}" for fault in text_faults(text, known, {candidate})]
    return faults


def _citations(draft: Draft) -> Iterator[tuple[str, str, str | None]]:
    for promotion in draft.promotions:
        yield f"promotion of {promotion.candidate}", promotion.figure, promotion.candidate
    for dead in draft.dead_ends:
        yield f"dead end of {dead.candidate}", dead.figure, dead.candidate
    for item in draft.retirements:
        yield f"retirement of {item.axis or item.category}", item.figure, None
    if draft.noise:
        yield "noise", draft.noise.figure, None
    if draft.selection:
        yield "selection", draft.selection.figure, None
    for lesson in draft.discoveries:
        yield f"discovery {lesson.kind}", lesson.figure, lesson.candidate


def _sources(draft: Draft, asked: Question) -> Sources:
    """Figures of the evidence and of both policies; names of the catalogue."""
    old = asked.policy
    numbers: list[Any] = [
        old.noise.model_dump(exclude={"provenance"}),
        old.selection.weights,
        [[trial.gain, trial.lb_gain] for trial in old.tried],
    ]
    if draft.noise:
        numbers.append(draft.noise.model_dump())
    if draft.selection:
        numbers.append(draft.selection.weights)
    figures: list[Figure] = [
        figure for section in section_figures(asked.evidence).values() for figure in section
    ]
    names = {*RULES, *(item.id for item in old.standing)}
    changes = [item.change for item in old.standing]
    for axis in asked.catalogue.axes:
        names |= {axis.id, axis.category, *(move.id for move in axis.moves)}
        changes += [move.change for move in axis.moves]
    return sources(asked.evidence, {*figures, *policy_figures(numbers)}, names, changes)


def _axis(draft: AxisDraft, asked: Question, objective: Objective) -> AxisBrief:
    brief = _axis_alone(draft, asked, objective)
    return brief.model_copy(update={"trainings": draft.trainings, "seeds": draft.seeds})


def _axis_alone(draft: AxisDraft, asked: Question, objective: Objective) -> AxisBrief:
    catalogue = asked.catalogue
    if draft.combines and catalogue.moves(draft.combines) is not None:
        return bundles.brief_for(draft.combines, catalogue, draft.reason, draft.axis)
    again = _repeated(draft, asked, objective)
    if again is not None:
        return again
    axis = catalogue.axis(draft.axis)
    return AxisBrief(
        axis=draft.axis,
        category=draft.category or (axis.category if axis else ""),
        brief=draft.brief or (axis.brief.strip() if axis else ""),
        knobs=list(draft.knobs) or (list(axis.knobs) if axis else []),
        moves=list(draft.moves),
        transfer=axis.transfer if axis else draft.transfer,
        reason=draft.reason,
        own=[
            OwnMove(
                id=move.id,
                set=move.set,
                patch=[Edit.model_validate(edit.model_dump()) for edit in move.patch],
                why=move.why,
            )
            for move in draft.own
        ],
    )


def _repeated(draft: AxisDraft, asked: Question, objective: Objective) -> AxisBrief | None:
    """The brief that tries a measured change again, as the ledger has it."""
    if draft.repeat is None:
        return None
    trial = repeatable(asked, objective).get(draft.repeat)
    return repeated(trial, asked.catalogue, draft.reason) if trial is not None else None


def repeatable(asked: Question, objective: Objective) -> dict[str, Trial]:
    """The measured changes that are still undecided and may be tried again, by their source."""
    trials = [*asked.policy.tried, *_tried(asked, objective).values()]
    return {
        trial.own.source: trial
        for trial in trials_of(trials)
        if trial.own and trial.own.source and trial.outcome in ("undecided", "failed")
    }


def _promotions(draft: Draft, asked: Question) -> list[StandingChange]:
    """The change is what the candidate's manifest says was measured, never what a model typed."""
    number, objective = asked.evidence.round, draft.objective
    likely = likely_gain(asked.evidence, asked.policy, asked.catalogue, objective)
    changes = []
    for item in draft.promotions:
        source = asked.explorer(item.candidate)
        if source is None:
            continue
        figure, gain = asked.earned(source, objective), likely.get(item.candidate)
        only = figure is None and gain is not None
        figure = likely_figure(gain) if only and gain is not None else figure or item.figure
        entry = promoted(source, number, asked.extended, figure)
        changes.append(entry.model_copy(update={"established": not only}))
    return changes


def _dead_ends(draft: Draft, asked: Question) -> list[DeadEnd]:
    tried = _tried(asked, draft.objective)
    known = {item.id for item in asked.policy.dont_waste_budget_on}
    known |= {
        reversed_end(asked.evidence, item).id for item in demoted(asked.evidence, asked.policy)
    }
    entries = []
    for item in draft.dead_ends:
        trial = tried.get((item.candidate, _dead_name(item, asked)))
        if trial is None:
            continue
        cited = Provenance(round=trial.round, candidate=trial.candidate, figure=item.figure)
        end = dead_end(trial.axis, trial.move, item.what, cited)
        if end.id not in known:
            known.add(end.id)
            entries.append(end)
    return entries


def _tried(asked: Question, objective: Objective) -> dict[tuple[str, str], Trial]:
    """This round's trials as computed, by candidate and move as a prompt shows it."""
    judged = judge(asked.evidence, asked.policy, asked.catalogue, objective)
    return {(trial.candidate, excerpt(trial.move)): trial for trial in judged.trials}


def _trials(
    draft: Draft, asked: Question, added: list[StandingChange], dead: list[DeadEnd]
) -> Iterator[Trial]:
    """The ledger: gains as computed, outcomes as this proposal decides."""
    ids = {item.id for item in added}
    why = {(d.axis, d.move): d.what for d in [*asked.policy.dont_waste_budget_on, *dead]}
    for trial in _tried(asked, draft.objective).values():
        outcome, reason = trial.outcome, trial.reason
        if f"r{trial.round:02d}-{trial.candidate}-{trial.move}" in ids:
            entry = next(c for c in added if c.provenance.candidate == trial.candidate)
            outcome = "promoted" if entry.established else "likely"
            reason = entry.provenance.figure
        elif (trial.axis, trial.move) in why:
            outcome, reason = "dead_end", why[trial.axis, trial.move]
        elif outcome in ("promoted", "likely", "dead_end"):
            outcome, reason = "undecided", f"left open by the proposal; measured: {reason}"
        yield trial.model_copy(update={"outcome": outcome, "reason": reason})


def _noise(draft: NoiseDraft, asked: Question) -> NoiseRule:
    """Thresholds as drafted; the seeds' spread as measured; prior and alpha are the operator's."""
    found, rules = asked.evidence.calibration, asked.rules.policy.noise
    drafted = draft.model_dump(exclude={"figure"}, exclude_none=True)
    cited = Provenance(round=asked.evidence.round, figure=draft.figure)
    return rules.model_copy(
        update={
            **drafted,
            "seed_sd": found.seed_sd,
            "seed_runs": found.seed_runs,
            "provenance": cited,
        }
    )


def _selection(draft: SelectionDraft, number: int) -> Selection:
    return Selection(
        criterion=draft.criterion,
        weights=draft.weights,
        provenance=Provenance(round=number, figure=draft.figure),
    )


def _retired(draft: Draft, asked: Question) -> list[RetiredAxis]:
    """Earlier retirements stay unless reinstated. A category rests for one round only: the rules
    may have to stand in after that, and do not know why it should go on."""
    number = asked.evidence.round
    kept = [
        item
        for item in asked.policy.retired
        if item.axis is None or item.axis not in draft.reinstate
    ]
    return kept + [
        RetiredAxis(
            axis=item.axis,
            category=item.category,
            until_round=number + 1 if item.category else None,
            provenance=Provenance(round=number, figure=item.figure),
        )
        for item in draft.retirements
    ]


def _remarks(draft: Draft, number: int) -> Iterator[Remark]:
    """The model's lessons."""
    for place, lesson in enumerate(draft.discoveries, start=1):
        name = "round" if lesson.kind == "summary" else str(place)
        cited = Provenance(round=number, candidate=lesson.candidate, figure=lesson.figure)
        yield Remark(lesson.kind, name, lesson.text, cited)
