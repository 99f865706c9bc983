"""What becomes of a round's trials: promoted, a dead end, or undecided, by the noise rule."""

from collections.abc import Sequence
from dataclasses import dataclass

from aevo.policy import own as own_moves
from aevo.policy import trials as ledger
from aevo.policy.posterior import likely, posterior, trust
from aevo.records.evidence import Calibration, CandidateSummary, Effect, Evidence
from aevo.records.policy import (
    AxisBrief,
    DeadEnd,
    MoveRef,
    NoiseRule,
    Objective,
    OwnMove,
    Policy,
    Provenance,
    StandingChange,
    Trial,
)
from aevo.statistics.effect import Estimate
from aevo.statistics.figures import signed
from aevo.statistics.noise import EPSILON
from aevo.substrate.catalogue import Catalogue, conflict, has_all, move_of

COLLAPSE = 5  # bands of dev that even a transfer intervention may not lose


@dataclass(frozen=True)
class Judgement:
    """The round's new standing changes, those that leave, new dead ends, and all its trials."""

    promotions: list[StandingChange]
    demotions: list[StandingChange]
    dead_ends: list[DeadEnd]
    trials: list[Trial]


@dataclass(frozen=True)
class Tried:
    """One move of one candidate over its runs; the leaderboard knows only the selected run.

    `chosen`: it is the move that the candidate stands by; `combines` then are those of its stack.
    """

    summary: CandidateSummary
    move: str
    chosen: bool
    gain: float | None
    lb_gain: float | None
    failure: str | None
    combines: tuple[MoveRef, ...] = ()
    own: OwnMove | None = None
    brief: AxisBrief | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.summary.axis or "", self.move

    @property
    def open_reason(self) -> str:
        """Why the trial decided nothing."""
        if self.failure:
            return self.failure
        return "no anchor to compare with" if self.gain is None else "chance may explain the gain"

    @property
    def figure(self) -> str:
        if self.gain is None:
            return self.failure or "no score"
        figure = f"dev {signed(self.gain, 4)}"
        return figure if self.lb_gain is None else f"{figure}, LB {signed(self.lb_gain)}"


def effect_of(summary: CandidateSummary, found: Calibration, objective: Objective) -> Effect | None:
    """What decides about a candidate: dev and leaderboard while dev is evidence, else the
    leaderboard alone (constitution R2)."""
    trusted = objective == "maximise_dev" and found.verdict == "evidence"
    return summary.effect if trusted else summary.external


def earned(
    summary: CandidateSummary, rule: NoiseRule, found: Calibration, objective: Objective
) -> str | None:
    """The figure by which a candidate earns promotion (constitution R1, R2), or None."""
    effect, lb_gain = effect_of(summary, found, objective), summary.lb_gain
    if effect is None or summary.change.empty:
        return None
    if lb_gain is not None and lb_gain < -found.lb_noise - EPSILON:
        return None
    if effect.gain <= rule.promotion_threshold + EPSILON or effect.p_adjusted > rule.alpha:
        return None
    figure = f"{signed(effect.gain, 4)} by {effect.basis} (Holm p {effect.p_adjusted:.3g})"
    if summary.readings is not None:
        figure += f": dev {signed(summary.readings.dev, 4)}, LB {signed(lb_gain)}"
    return figure


def demoted(evidence: Evidence, policy: Policy) -> list[StandingChange]:
    """Changes that leave the standing recipe because the anchor lost by them (constitution R6).

    Of several promoted together the last, whose own trial was the weakest, leaves first.
    """
    held = evidence.patterns.stacked
    if held is None or held.verdict != "reversed":
        return []
    return [item for item in policy.standing if item.id == held.changes[-1]]


def judge(
    evidence: Evidence, policy: Policy, catalogue: Catalogue, objective: Objective
) -> Judgement:
    """Judges every trial of the round under the objective that the evidence supports."""
    catalogue = catalogue.with_briefs(policy.axes)
    promotions, waiting = _promote(evidence, policy, catalogue, objective)
    claimed = {item.provenance.candidate for item in promotions}
    promotions += _build_upon(evidence, policy, catalogue, objective, promotions)
    demotions = demoted(evidence, policy)
    known = {(item.axis, item.move) for item in policy.dont_waste_budget_on}
    winners = {item.provenance.candidate: item for item in promotions}
    dead_ends = [reversed_end(evidence, item) for item in demotions]
    known |= {(item.axis, item.move) for item in dead_ends}
    trials = []
    for summary in evidence.candidates:
        if summary.role == "anchor" or summary.axis is None:
            continue
        for tried in _tried(summary, policy, catalogue, evidence.round):
            if tried.chosen and summary.candidate in winners:
                outcome = "promoted" if summary.candidate in claimed else "likely"
                reason = winners[summary.candidate].provenance.figure
                trials.append(_trial(evidence, tried, outcome, reason))
                continue
            if tried.chosen and summary.candidate in waiting:
                trials.append(_trial(evidence, tried, "undecided", waiting[summary.candidate]))
                continue
            what = _dead(tried, evidence.calibration, policy.noise, objective)
            if what is None:
                outcome = "failed" if tried.failure else "undecided"
                trials.append(_trial(evidence, tried, outcome, tried.open_reason))
                continue
            trials.append(_trial(evidence, tried, "dead_end", what))
            if tried.key not in known:
                known.add(tried.key)
                cited = Provenance(
                    round=evidence.round, candidate=tried.summary.candidate, figure=tried.figure
                )
                # a digest tells nobody what the code did; its author's title does
                titled = f"{tried.own.title}: {what}" if tried.own and tried.own.title else what
                dead_ends.append(dead_end(*tried.key, titled, cited))
    return Judgement(promotions, demotions, dead_ends, trials)


def selected_move(summary: CandidateSummary, catalogue: Catalogue) -> str:
    """Name of the move a candidate stands by: the catalogue's or the policy's, if the change that
    was measured is exactly that one, else the change's own. What the agent calls it decides
    nothing."""
    axis = catalogue.axis(summary.axis or "")
    known = move_of(axis, summary.change) if axis else None
    return known or summary.change.name


def _promote(
    evidence: Evidence, policy: Policy, catalogue: Catalogue, objective: Objective
) -> tuple[list[StandingChange], dict[str, str]]:
    """Promotions that can stand together, strongest first, and why others have to wait.

    Gains measured apart need not add up (a higher rate, a flat schedule and a larger adapter are
    each good, and together too much), so the noise rule bounds how many enter at once.
    """
    found = []
    for summary in evidence.candidates:
        figure = earned(summary, policy.noise, evidence.calibration, objective)
        effect = effect_of(summary, evidence.calibration, objective)
        if summary.role == "explorer" and figure is not None and effect is not None:
            found.append((effect.gain, summary, figure))
    found.sort(key=lambda item: (-item[0], item[1].candidate))
    promotions: list[StandingChange] = []
    waiting: dict[str, str] = {}
    for _, summary, figure in found:
        if len(promotions) >= policy.noise.promotions_per_round:
            first = ", ".join(item.id for item in promotions)
            waiting[summary.candidate] = f"{figure}; must now show its gain on top of {first}"
            continue
        clash = next((p for p in promotions if conflict(p.change, summary.change)), None)
        if clash is not None:
            both = ", ".join(conflict(summary.change, clash.change))
            waiting[summary.candidate] = f"{figure}, but {clash.id} also touches {both}"
            continue
        promotions.append(promoted(summary, evidence.round, catalogue, figure))
    return promotions, waiting


def likely_gain(
    evidence: Evidence, policy: Policy, catalogue: Catalogue, objective: Objective
) -> dict[str, Estimate]:
    """By candidate, what its change is believed to add to the target after this round's trials,
    where that is likely enough to be built upon (constitution R2)."""
    extended = catalogue.with_briefs(policy.axes)
    own = {
        item.candidate: _trial(evidence, tried, "undecided", "")
        for item in evidence.candidates
        if item.role == "explorer" and item.axis is not None and item.readings is not None
        for tried in _tried(item, policy, extended, evidence.round)
        if tried.chosen and tried.gain is not None
    }
    found = posterior([*policy.tried, *own.values()], trust(evidence.calibration, objective))
    noise = evidence.calibration.lb_noise
    gains = {
        name: found.of(ledger.parts(trial))
        for name, trial in own.items()
        if trial.lb_gain is not None and trial.lb_gain >= -noise - EPSILON
    }
    return {name: gain for name, gain in gains.items() if likely(gain)}


def likely_figure(gain: Estimate) -> str:
    """A belief as a figure."""
    size = f"{signed(gain.gain, 4)} ± {gain.se:.4f}"
    return f"not established: expected {size}, a gain at {1 - gain.p:.0%}"


def _build_upon(
    evidence: Evidence,
    policy: Policy,
    catalogue: Catalogue,
    objective: Objective,
    promotions: Sequence[StandingChange],
) -> list[StandingChange]:
    """Changes that are only likely and yet enter the working recipe, most promising first: none
    that touches what was promoted, or what another of them does."""
    gains = likely_gain(evidence, policy, catalogue, objective)
    by_name = {item.candidate: item for item in evidence.candidates}
    added: list[StandingChange] = []
    for name in sorted(gains, key=lambda name: (-gains[name].gain, name)):
        others = [*promotions, *added]
        change = by_name[name].change
        taken = name in {o.provenance.candidate for o in others}
        clash = any(conflict(change, o.change) for o in others)
        if len(added) < policy.likely_per_round and not clash and not taken:
            extended = catalogue.with_briefs(policy.axes)
            entry = promoted(by_name[name], evidence.round, extended, likely_figure(gains[name]))
            added.append(entry.model_copy(update={"established": False}))
    return added


def _tried(
    summary: CandidateSummary, policy: Policy, catalogue: Catalogue, number: int
) -> list[Tried]:
    """The candidate's moves in the order of their first run; repeats of one move are averaged."""
    gains: dict[str, list[float]] = {}
    failures: dict[str, str] = {}
    axis = catalogue.axis(summary.axis or "")
    combined = _combined(summary, policy, catalogue)
    brief = next((brief for brief in policy.axes if brief.axis == summary.axis), None)
    chosen = selected_move(summary, catalogue)
    own = own_moves.measured(summary, number, chosen, brief) if brief else None
    for run in summary.runs:
        if run.change.empty:
            continue
        known = move_of(axis, run.change) if axis else None
        name = chosen if run.change == summary.change else known or run.change.name
        values = gains.setdefault(name, [])
        if run.gain is not None:
            values.append(run.gain)
        elif run.failure:
            failures[name] = run.failure
    return [
        Tried(
            summary=summary,
            move=name,
            chosen=name == chosen,
            gain=round(sum(values) / len(values), 6) if values else None,
            lb_gain=summary.lb_gain if name == chosen else None,
            failure=failures.get(name),
            combines=tuple(combined) if name == chosen else (),
            own=own if name == chosen else None,
            brief=brief,
        )
        for name, values in gains.items()
    ]


def _dead(tried: Tried, found: Calibration, rule: NoiseRule, objective: Objective) -> str | None:
    """Why this is a dead end, or None while that is open.

    A move is dead when what is known of it ends below the promotion threshold, so that more trials
    would hardly promote it. One that was never scored but for dev is dead only by a loss.
    """
    gain, lb_gain, band = tried.gain, tried.lb_gain, found.dev_band
    if gain is None:
        return "training diverged" if "diverged" in (tried.failure or "") else None
    if lb_gain is not None and lb_gain < -found.lb_noise - EPSILON:
        return "the leaderboard fell"
    effect = effect_of(tried.summary, found, objective) if lb_gain is not None else None
    if objective == "maximise_transfer":
        if lb_gain is None:
            return "dev collapsed" if gain < -COLLAPSE * band else None
        if gain > band + EPSILON and lb_gain <= found.lb_noise + EPSILON:
            return "raises dev only; the leaderboard does not follow"
    elif effect is None and tried.chosen:
        effect = tried.summary.effect
    if effect is not None and effect.high < rule.promotion_threshold:
        return f"at most {signed(effect.high)} by {effect.basis}, below the promotion threshold"
    return "lost beyond the seed band" if effect is None and gain < -band - EPSILON else None


def departure(evidence: Evidence, change: StandingChange) -> tuple[str, Provenance]:
    """Why a demoted change leaves, in words and with its figure."""
    held = evidence.patterns.stacked
    anchor = next(item.candidate for item in evidence.candidates if item.role == "anchor")
    figure = f"the anchor moved {signed(held.step if held else None, 4)}"
    text = f"{change.change.summary()} ({change.axis}) leaves the standing recipe: "
    text += "the anchor lost by it."
    return text, Provenance(round=evidence.round, candidate=anchor, figure=figure)


def reversed_end(evidence: Evidence, change: StandingChange) -> DeadEnd:
    """A demoted change as a dead end."""
    return dead_end(
        change.axis,
        change.id.split("-", 2)[-1],
        "does not stack: the anchor fell with it",
        departure(evidence, change)[1],
    )


def dead_end(axis: str, move: str, what: str, cited: Provenance) -> DeadEnd:
    """A move as an entry of "Don't waste budget on"."""
    return DeadEnd(id=f"{axis}/{move}", axis=axis, move=move, what=what, provenance=cited)


def promoted(
    summary: CandidateSummary, number: int, catalogue: Catalogue, figure: str
) -> StandingChange:
    """A candidate's measured change as a standing one, named by round, candidate and move."""
    return StandingChange(
        id=f"r{number:02d}-{summary.candidate}-{selected_move(summary, catalogue)}",
        axis=summary.axis or "",
        change=summary.change,
        provenance=Provenance(round=number, candidate=summary.candidate, figure=figure),
        title=summary.title if summary.change.edits else "",
    )


def _combined(summary: CandidateSummary, policy: Policy, catalogue: Catalogue) -> list[MoveRef]:
    """The moves that a stack's candidate stands by, if it is all of those that it was assigned."""
    brief = next((brief for brief in policy.axes if brief.axis == summary.axis), None)
    moves = catalogue.moves(brief.combines) if brief else None
    return list(brief.combines) if brief and moves and has_all(summary.change, moves) else []


def _trial(evidence: Evidence, tried: Tried, outcome: str, reason: str) -> Trial:
    found = tried.summary.readings if tried.chosen else None
    return Trial.model_validate(
        {
            "combines": list(tried.combines),
            "dev": found.dev if found else None,
            "dev_se": found.dev_se if found else None,
            "dev_shared": found.dev_shared if found else 0.0,
            "lb_se": found.lb_se if found else None,
            "domains": found.domains if found else {},
            "change_sha256": tried.summary.change.sha256 if found else None,
            "axis": tried.key[0],
            "move": tried.move,
            "round": evidence.round,
            "candidate": tried.summary.candidate,
            "gain": tried.gain,
            "lb_gain": tried.lb_gain,
            "outcome": outcome,
            "reason": reason,
            "own": tried.own,
            "category": tried.brief.category if tried.own and tried.brief else "",
            "knobs": tried.brief.knobs if tried.own and tried.brief else [],
        }
    )
