"""Sentences and Markdown of the evidence, computed from its figures; nothing is claimed beyond."""

from collections.abc import Mapping, Sequence

from aevo.evidence.inputs import RoundFacts
from aevo.files import words
from aevo.records.change import Change
from aevo.records.evidence import (
    SECTIONS,
    VERDICTS,
    Calibration,
    CandidateSummary,
    Comparison,
    Effect,
    Evidence,
    Stacked,
    Surprise,
)
from aevo.statistics.figures import shown, signed

NO_CHANGE = Change()
CLAIM_SLACK = 0.005  # an agent's claimed dev may be rounded
DOMAIN_SLUMP = 0.10  # a domain falling this far under a gain is worth a look


def candidate(summary: CandidateSummary) -> str:
    """One or two sentences on one candidate."""
    who = f"{summary.candidate} ({summary.axis or 'anchor'})"
    if summary.status != "ok" or summary.dev is None:
        return f"{who} is left out: {summary.status}, {summary.failure}."
    text = f"{who}: dev {summary.dev:.4f}"
    if summary.role == "explorer":
        change = summary.change
        text += f" with {'nothing changed' if change.empty else change.summary()}"
    comparison = summary.comparison
    if comparison is not None:
        band = "beyond" if comparison.beyond_band else "within"
        text += (
            f"; {signed(comparison.gain, 4)} over the anchor on {comparison.n} items "
            f"(95 % {signed(comparison.low, 4)} to {signed(comparison.high, 4)}, Holm-adjusted p "
            f"{comparison.p_adjusted:.3g}, {band} the seed band)"
        )
    if summary.effect is not None:
        text += f"; effect {_effect(summary.effect)}"
    if summary.readings is not None and summary.readings.selection > 0:
        text += (
            f", after taking off {summary.readings.selection:.4f} that choosing among more "
            "checkpoints than the anchor had flatters dev by"
        )
    if summary.lb is not None:
        text += f"; leaderboard {shown(summary.lb)}"
        if summary.lb_gain is not None:
            text += f" ({signed(summary.lb_gain)})"
    return text + "."


def _effect(found: Effect) -> str:
    trials = f", {found.trials} trials" if found.trials > 1 else ""
    return (
        f"{signed(found.gain, 4)} by {found.basis}{trials} (95 % {signed(found.low, 4)} to "
        f"{signed(found.high, 4)}, Holm-adjusted p {found.p_adjusted:.3g})"
    )


def patterns(
    gain_by_category: Mapping[str, float],
    movers: Mapping[str, str],
    weakest: tuple[str | None, float],
    anchor: CandidateSummary | None,
    held: Stacked | None,
) -> str:
    """What holds across candidates."""
    if not gain_by_category:
        return "No explorer could be compared with the anchor."
    order = sorted(gain_by_category.items(), key=lambda item: (-item[1], item[0]))
    lines = ["Mean dev gain by category: " + ", ".join(f"{k} {v:+.4f}" for k, v in order) + "."]
    if movers:
        moved = ", ".join(f"{k} by {v}" for k, v in movers.items())
        lines.append(f"Most moved, by domain: {moved}.")
    weak, share = weakest
    if weak is not None and anchor is not None and anchor.dev is not None:
        lines.append(
            f"Visibly weak domain: {weak}, which holds {share:.0%} of the anchor's errors "
            f"(accuracy {anchor.domains[weak]:.3f}; dev {anchor.dev:.3f})."
        )
    if held is not None:
        lines.append(additivity(held))
    return " ".join(lines)


def damage(summaries: Sequence[CandidateSummary]) -> list[str]:
    """A sentence on the domains that changes cost; none where they cost none."""
    costs = [
        f"{summary.candidate} ({summary.move or summary.axis}) cost {_costs(summary.comparison)}"
        for summary in summaries
        if summary.comparison is not None and summary.comparison.damaged
    ]
    return [f"Collateral damage, item by item: {'; '.join(costs)}."] if costs else []


def _costs(comparison: Comparison) -> str:
    """The domains that fell beyond chance, and the one that rose most beside them."""
    fell = ", ".join(
        f"{name} {signed(comparison.domains[name])} (Holm-adjusted p {p:.2g})"
        for name, p in comparison.damaged.items()
    )
    best = max(comparison.domains, key=lambda name: (comparison.domains[name], name))
    if comparison.domains[best] <= 0:
        return fell
    return f"{fell}, for {best} {signed(comparison.domains[best])}"


HELD = {
    "holds": "the change holds on top of the standing recipe",
    "falls_short": "it falls short of its promise on top of the standing recipe",
    "reversed": "it does not stack and leaves the standing recipe",
}


def additivity(held: Stacked) -> str:
    """What became of the changes promoted after the last round."""
    return (
        f"{', '.join(held.changes)} promised {signed(held.expected)}; the anchor moved "
        f"{signed(held.step)} (standard error {held.step_se:.3f}) with it: {HELD[held.verdict]}."
    )


def calibration(found: Calibration) -> str:
    """The state of dev as a proxy."""
    if found.seed_sd is None:
        seeds = "The seeds' spread is not measured yet; the prior stands in."
    else:
        seeds = f"Seed sd of dev {found.seed_sd:.4f} over {found.seed_runs} anchor runs."
    lines = [f"{VERDICTS[found.verdict]}: {found.reason}.", seeds]
    if found.slope is not None and found.slope_low is not None and found.slope_high is not None:
        rho = "n/a" if found.rank_correlation is None else f"{found.rank_correlation:+.2f}"
        lines.append(
            f"LB gain per dev gain {found.slope:+.2f} (95 % {found.slope_low:+.2f} to "
            f"{found.slope_high:+.2f}), Spearman {rho}, over all submitted explorers."
        )
    if found.detectable:
        shown_ = ", ".join(f"{v:.3f} by {k}" for k, v in found.detectable.items())
        lines.append(f"Smallest gain that this design finds (power 80 %): {shown_}.")
    lines.append(f"Rounds in a row without enough LB improvement: {found.plateau_rounds}.")
    top = max(found.leverage, key=lambda name: (found.leverage[name], name), default=None)
    if top is not None and found.leverage[top] > 0 and found.verdict != "evidence":
        lines.append(f"Most dev gain that LB did not confirm: {top} {found.leverage[top]:+.4f}.")
    return " ".join(lines)


def surprises(
    facts: RoundFacts, summaries: Sequence[CandidateSummary], found: Calibration
) -> list[Surprise]:
    """Results against expectation, in the candidates' order."""
    surprising = []
    for item, summary in zip(facts.candidates, summaries, strict=True):
        surprising += _of_candidate(summary, found)
        claimed = item.manifest.claims.claimed_dev if item.manifest else None
        if (
            claimed is not None
            and summary.dev is not None
            and abs(claimed - summary.dev) > CLAIM_SLACK
        ):
            figure = f"claimed {claimed:.4f}, measured {summary.dev:.4f}"
            text = "The agent's claim is not what was measured; the measurement counts."
            surprising.append(Surprise(candidate=summary.candidate, figure=figure, text=text))
    return surprising


def _of_candidate(summary: CandidateSummary, found: Calibration) -> list[Surprise]:
    comparison, who = summary.comparison, summary.candidate
    if comparison is None:
        return []
    result = []
    gain, lb_gain = comparison.gain, summary.lb_gain
    figure = f"dev {signed(gain, 4)}, LB {signed(lb_gain)}"
    if lb_gain is not None and gain > found.dev_band and lb_gain <= found.lb_noise + 1e-9:
        text = "dev rose beyond the seed band and the leaderboard did not follow."
        result.append(Surprise(candidate=who, figure=figure, text=text))
    if lb_gain is not None and gain <= 0 and lb_gain > found.lb_noise + 1e-9:
        text = "The leaderboard rose while dev did not."
        result.append(Surprise(candidate=who, figure=figure, text=text))
    for name, value in comparison.domains.items():
        if name in comparison.damaged:
            text = f"{name} is damaged: it fell beyond chance on its own items."
            figure = f"{name} {signed(value)}, dev {signed(gain, 4)}"
            result.append(Surprise(candidate=who, figure=figure, text=text))
        elif gain > 0 and value <= -DOMAIN_SLUMP:
            text = f"{name} fell although dev as a whole rose."
            figure = f"{name} {signed(value)}, dev {signed(gain, 4)}"
            result.append(Surprise(candidate=who, figure=figure, text=text))
    return result


def render(evidence: Evidence) -> str:
    """evidence.md: the five sections under their fixed titles."""
    bodies = {
        "candidates": _candidates(evidence),
        "patterns": [evidence.patterns.text],
        "calibration": [evidence.calibration.text, "", *_pairs(evidence.calibration)],
        "surprises": [f"- {s.candidate} ({s.figure}): {s.text}" for s in evidence.surprises],
        "audit": [
            f"- {'passed' if a.passed else 'FAILED'}: {a.check}. {a.text}" for a in evidence.audit
        ],
    }
    lines = [f"# Evidence of round {evidence.round}, {evidence.campaign}", ""]
    lines.append(f"Search mode: {evidence.mode}. Policy {evidence.policy_sha256[:12]}.")
    if evidence.prose is not None:
        author = " ".join(_plain(evidence.prose.author).split())
        lines += ["", f"Figures and verdicts are computed. Prose, in quotation: {author}."]
    for key, title in SECTIONS.items():
        lines += ["", f"## {title}", "", *(bodies[key] or ["None."])]
        lines += _prose(evidence, key)
    return "\n".join(map(words.markdown, lines)) + "\n"


def _prose(evidence: Evidence, section: str) -> list[str]:
    """A model's words as a quotation, which can hold no heading and no markup of its own."""
    text = evidence.prose.sections.get(section, "") if evidence.prose else ""
    quoted = [
        f"> {words.line(line, words.LONG)}".rstrip() for line in _plain(text).strip().splitlines()
    ]
    return ["", *quoted] if quoted else []


def _one_line(text: str) -> str:
    """An agent's words cannot begin a line, and so no section, of the document."""
    return " ".join(text.split())


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _candidates(evidence: Evidence) -> list[str]:
    lines = []
    for summary in evidence.candidates:
        lines.append(f"- {_one_line(summary.text)}")
        lines += [f"  - failure mode: {_one_line(mode)}" for mode in summary.failure_modes]
        lines += [f"  - the agent reports: {_one_line(said)}" for said in summary.findings]
    return lines


def _pairs(found: Calibration) -> list[str]:
    if not found.pairs:
        return ["No submissions."]
    head = ["| round | candidate | dev | LB | LB beyond prediction |", "|---|---|---|---|---|"]
    return head + [
        f"| {p.round} | {p.candidate} | {p.dev:.4f} | {shown(p.lb)} | {signed(p.residual)} |"
        for p in found.pairs
    ]
