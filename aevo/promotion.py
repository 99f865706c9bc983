"""What becomes of a round's trials: promoted, a dead end, or undecided, by the noise rule."""

import math
from dataclasses import dataclass

from aevo.axes import Axis, Catalogue, conflict, move_of
from aevo.policy import signed
from aevo.records.evidence import Calibration, CandidateSummary, Evidence
from aevo.records.policy import (
    DeadEnd,
    NoiseRule,
    Objective,
    Policy,
    Provenance,
    StandingChange,
    Trial,
)
from aevo.statistics import EPSILON

COLLAPSE = 5  # bands of dev that even a transfer intervention may not lose


@dataclass(frozen=True)
class Judgement:
    """The round's new standing changes, new dead ends, and all its trials."""

    promotions: list[StandingChange]
    dead_ends: list[DeadEnd]
    trials: list[Trial]


@dataclass(frozen=True)
class Tried:
    """One move of one candidate over its runs; the leaderboard knows only the selected run."""

    summary: CandidateSummary
    move: str
    gain: float | None
    lb_gain: float | None
    failure: str | None

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


def earned(
    summary: CandidateSummary, rule: NoiseRule, found: Calibration, objective: Objective
) -> str | None:
    """The figure by which a candidate earns promotion (constitution R1, R2), or None."""
    compared, lb_gain = summary.comparison, summary.lb_gain
    if compared is None or summary.change.empty:
        return None
    if lb_gain is not None and lb_gain < -found.lb_noise - EPSILON:
        return None
    figure = f"dev {signed(compared.gain, 4)} (Holm p {compared.p_adjusted:.3g})"
    if lb_gain is not None:
        figure += f", LB {signed(lb_gain)}"
        if lb_gain >= rule.lb_threshold - EPSILON:
            return figure
    if compared.gain <= rule.promotion_threshold + EPSILON or compared.p_adjusted > rule.alpha:
        return None
    if objective == "maximise_dev" and found.verdict == "evidence":
        return figure
    return figure if lb_gain is not None and lb_gain > found.lb_noise + EPSILON else None


def judge(
    evidence: Evidence, policy: Policy, catalogue: Catalogue, objective: Objective
) -> Judgement:
    """Judges every trial of the round under the objective that the evidence supports."""
    promotions, waiting = _promote(evidence, policy, catalogue, objective)
    known = {(item.axis, item.move) for item in policy.dont_waste_budget_on}
    winners = {item.provenance.candidate: item for item in promotions}
    dead_ends, trials = [], []
    for summary in evidence.candidates:
        if summary.role == "anchor" or summary.axis is None:
            continue
        for tried in _tried(summary, catalogue.axis(summary.axis)):
            selected = tried.move == selected_move(summary, catalogue)
            if selected and summary.candidate in winners:
                reason = winners[summary.candidate].provenance.figure
                trials.append(_trial(evidence, tried, "promoted", reason))
                continue
            if selected and summary.candidate in waiting:
                trials.append(_trial(evidence, tried, "undecided", waiting[summary.candidate]))
                continue
            what = _dead(tried, evidence.calibration, objective) or _repeated(tried, policy)
            if what is None:
                outcome = "failed" if tried.failure else "undecided"
                trials.append(_trial(evidence, tried, outcome, tried.open_reason))
                continue
            trials.append(_trial(evidence, tried, "dead_end", what))
            if tried.key not in known:
                known.add(tried.key)
                dead_ends.append(_dead_end(evidence, tried, what))
    return Judgement(promotions, dead_ends, trials)


def selected_move(summary: CandidateSummary, catalogue: Catalogue) -> str:
    """Name of the move a candidate stands by: the catalogue's, its own, or the change itself."""
    axis = catalogue.axis(summary.axis or "")
    if axis is not None and summary.move is not None and axis.move(summary.move):
        return summary.move
    known = move_of(axis, summary.change) if axis else None
    return known or summary.move or summary.change.summary()


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
        if summary.role == "explorer" and figure is not None and summary.comparison is not None:
            lb_gain = summary.lb_gain if summary.lb_gain is not None else -math.inf
            strength = (summary.comparison.gain, lb_gain)
            if objective == "maximise_transfer":
                strength = (lb_gain, summary.comparison.gain)
            found.append((strength, summary, figure))
    found.sort(key=lambda item: (-item[0][0], -item[0][1], item[1].candidate))
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
        promotions.append(
            StandingChange(
                id=f"r{evidence.round:02d}-{summary.candidate}-{selected_move(summary, catalogue)}",
                axis=summary.axis or "",
                change=summary.change,
                provenance=Provenance(
                    round=evidence.round, candidate=summary.candidate, figure=figure
                ),
            )
        )
    return promotions, waiting


def _tried(summary: CandidateSummary, axis: Axis | None) -> list[Tried]:
    """The candidate's moves in the order of their first run; repeats of one move are averaged."""
    gains: dict[str, list[float]] = {}
    failures: dict[str, str] = {}
    catalogue = Catalogue(axes=[axis] if axis else [])
    chosen = selected_move(summary, catalogue)
    for run in summary.runs:
        if run.change.empty:
            continue
        known = move_of(axis, run.change) if axis else None
        name = chosen if run.change == summary.change else known or run.change.summary()
        values = gains.setdefault(name, [])
        if run.gain is not None:
            values.append(run.gain)
        elif run.failure:
            failures[name] = run.failure
    return [
        Tried(
            summary=summary,
            move=name,
            gain=round(sum(values) / len(values), 6) if values else None,
            lb_gain=summary.lb_gain if name == chosen else None,
            failure=failures.get(name),
        )
        for name, values in gains.items()
    ]


def _dead(tried: Tried, found: Calibration, objective: Objective) -> str | None:
    """Why this is a dead end, or None while that is open."""
    gain, lb_gain, band = tried.gain, tried.lb_gain, found.dev_band
    if gain is None:
        return "training diverged" if "diverged" in (tried.failure or "") else None
    if lb_gain is not None and lb_gain < -found.lb_noise - EPSILON:
        return "the leaderboard fell"
    if objective == "maximise_transfer":
        if lb_gain is not None and gain > band + EPSILON and lb_gain <= found.lb_noise + EPSILON:
            return "raises dev only; the leaderboard does not follow"
        if lb_gain is not None:
            return "did nothing for the leaderboard" if lb_gain <= EPSILON else None
        return "dev collapsed" if gain < -COLLAPSE * band else None
    if lb_gain is not None and lb_gain > found.lb_noise + EPSILON:
        return None
    if gain < -band - EPSILON:
        return "lost beyond the seed band"
    return "did nothing" if gain <= EPSILON else None


def _repeated(tried: Tried, policy: Policy) -> str | None:
    """A move that stays within the shrinking band of a mean over repeats has had its chance."""
    if tried.gain is None:
        return None
    earlier = [
        trial.gain
        for trial in policy.tried
        if (trial.axis, trial.move) == tried.key and trial.gain is not None
    ]
    values = [*earlier, tried.gain]
    mean = sum(values) / len(values)
    if not earlier or mean >= policy.noise.promotion_threshold / math.sqrt(len(values)):
        return None
    return f"tried {len(values)} times for a mean dev gain of {signed(mean, 4)}"


def _trial(evidence: Evidence, tried: Tried, outcome: str, reason: str) -> Trial:
    return Trial.model_validate(
        {
            "axis": tried.key[0],
            "move": tried.move,
            "round": evidence.round,
            "candidate": tried.summary.candidate,
            "gain": tried.gain,
            "lb_gain": tried.lb_gain,
            "outcome": outcome,
            "reason": reason,
        }
    )


def _dead_end(evidence: Evidence, tried: Tried, what: str) -> DeadEnd:
    candidate = tried.summary.candidate
    return DeadEnd(
        id=f"{tried.key[0]}/{tried.move}",
        axis=tried.key[0],
        move=tried.move,
        what=what,
        provenance=Provenance(round=evidence.round, candidate=candidate, figure=tried.figure),
    )
