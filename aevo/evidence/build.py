"""A round's evidence, computed from manifests, predictions and leaderboard, and nothing else.

    python -m aevo.evidence verify runs/<campaign>    # recomputes all figures; exit 3: one differs

`build` is pure: the same records give the same document, byte for byte.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aevo.evidence import wording
from aevo.evidence.additivity import additivity
from aevo.evidence.audit import audit
from aevo.evidence.calibration import build as build_calibration
from aevo.evidence.collateral import damage
from aevo.evidence.effects import effects, readings, round_noise, true_spread
from aevo.evidence.inputs import CandidateFacts, RoundFacts
from aevo.records.evidence import (
    CandidateSummary,
    Comparison,
    Effect,
    Evidence,
    Patterns,
    Readings,
    RunSummary,
    Stacked,
)
from aevo.records.leaderboard import Leaderboard
from aevo.statistics.effect import Z95
from aevo.statistics.figures import figure
from aevo.statistics.multiplicity import holm
from aevo.statistics.noise import EPSILON
from aevo.statistics.paired import answers, paired

VISIBLY_WEAK = 1.5  # times an even share of dev's errors that a domain must hold to attract axes


def build(rounds: Sequence[RoundFacts]) -> Evidence:
    """The evidence of the last of `rounds`; the earlier ones give seeds and dev/LB pairs."""
    facts = rounds[-1]
    noise = round_noise(rounds)
    found = readings(facts, noise)
    spread = true_spread(facts, found)
    worth = _Worth(
        comparisons=_comparisons(facts, noise.band),
        readings=found,
        effects=effects(facts, found, noise, external=False),
        external=effects(facts, found, noise, external=True),
    )
    summaries = _summaries(facts, worth)
    patterns = _patterns(facts, summaries, additivity(rounds, noise, spread))
    calibration = build_calibration(rounds, noise, spread, summaries)
    return Evidence(
        campaign=facts.plan.campaign,
        round=facts.number,
        mode=facts.policy.mode,
        policy_sha256=facts.plan.policy_sha256,
        manifests={c.plan.id: c.sha256 for c in facts.candidates if c.sha256 is not None},
        submissions=list(facts.leaderboard.submissions) if facts.leaderboard else [],
        candidates=summaries,
        patterns=patterns,
        calibration=calibration,
        surprises=wording.surprises(facts, summaries, calibration),
        audit=audit(facts, summaries),
    )


@dataclass(frozen=True)
class _Worth:
    """What was measured of the explorers, by candidate."""

    comparisons: dict[str, Comparison]
    readings: dict[str, Readings]
    effects: dict[str, Effect]
    external: dict[str, Effect]


def _comparisons(facts: RoundFacts, band: float) -> dict[str, Comparison]:
    """Explorers against the anchor on common items, adjusted together for their number."""
    anchor = facts.anchor
    if anchor is None or anchor.usable is None or not anchor.correct:
        return {}
    explorers = [
        item
        for item in facts.candidates
        if item.plan.role == "explorer" and item.correct.keys() & anchor.correct.keys()
    ]
    # the anchor's run of the same seed: what seeds do is then in neither
    pairs = [paired(anchor.at(item.seed), item.correct) for item in explorers]
    # an explorer that changed nothing tests nothing, and costs the others no power
    tests = [index for index, item in enumerate(explorers) if not _unchanged(item)]
    adjusted = [1.0] * len(pairs)
    for index, p in zip(tests, holm([pairs[index].p for index in tests]), strict=True):
        adjusted[index] = p
    damaged = damage(anchor, [explorers[index] for index in tests])
    return {
        item.plan.id: Comparison(
            n=pair.n,
            won=pair.won,
            lost=pair.lost,
            gain=figure(pair.gain),
            low=figure(pair.low),
            high=figure(pair.high),
            p=float(f"{pair.p:.6g}"),
            p_adjusted=float(f"{p_adjusted:.6g}"),
            beyond_band=abs(pair.gain) > band + EPSILON,
            domains={name: gain for name, (gain, _) in domains.items()},
            domain_reach={name: reach for name, (_, reach) in domains.items()},
            damaged=damaged.get(item.plan.id, {}),
        )
        for item, pair, p_adjusted, domains in zip(
            explorers,
            pairs,
            adjusted,
            [_domain_gains(anchor, item) for item in explorers],
            strict=True,
        )
    }


def _unchanged(item: CandidateFacts) -> bool:
    return item.manifest is not None and item.manifest.change.empty


def _domain_gains(
    anchor: CandidateFacts, explorer: CandidateFacts
) -> dict[str, tuple[float, float]]:
    """Per domain, the accuracy gain on that domain's common items, and half of the width of its
    95 % interval (normal, over items)."""
    reference = anchor.at(explorer.seed)
    items = list(reference.keys() & explorer.correct.keys())
    domain_of = [anchor.domain_of[item] for item in items]
    names = sorted(set(domain_of))
    column = {name: index for index, name in enumerate(names)}
    place = np.fromiter(map(column.__getitem__, domain_of), int, len(items))
    before, after = answers(reference, items), answers(explorer.correct, items)
    counts = [
        np.bincount(place[which], minlength=len(names)).tolist()
        for which in (slice(None), after & ~before, before & ~after)
    ]
    found = {}
    for name, n, won, lost in zip(names, *counts, strict=True):
        gain = (won - lost) / n
        reach = Z95 * math.sqrt(max(0.0, (won + lost) / n - gain**2) / n)
        found[name] = figure(gain), figure(reach)
    return found


def _summaries(facts: RoundFacts, worth: _Worth) -> list[CandidateSummary]:
    board = facts.leaderboard
    anchor = facts.anchor
    anchor_devs = _devs(anchor)
    anchor_lb = board.score_of(anchor.plan.id) if board and anchor else None
    return [_summary(item, worth, board, anchor_devs, anchor_lb) for item in facts.candidates]


def _summary(
    item: CandidateFacts,
    worth: _Worth,
    board: Leaderboard | None,
    anchor_devs: Mapping[int | None, float],
    anchor_lb: float | None,
) -> CandidateSummary:
    manifest, plan, flags = item.manifest, item.plan, item.flagged
    selected = manifest.selected if manifest and not flags else None
    lb = board.score_of(plan.id) if board else None
    lb_gain = None
    if plan.role == "explorer" and lb is not None and anchor_lb is not None:
        lb_gain = figure(lb - anchor_lb)
    summary = CandidateSummary(
        candidate=plan.id,
        role=plan.role,
        axis=plan.axis.axis if plan.axis else None,
        category=plan.axis.category if plan.axis else None,
        move=manifest.move if manifest else None,
        change=manifest.change if manifest else wording.NO_CHANGE,
        status=item.status,
        failure=item.problem if item.status != "ok" else None,
        dev=figure(selected.dev) if selected else None,
        lb=lb,
        lb_gain=lb_gain,
        domains={k: figure(v.accuracy) for k, v in selected.domains.items()} if selected else {},
        checkpoint=f"run {selected.run}, {selected.checkpoint}" if selected else None,
        comparison=worth.comparisons.get(plan.id),
        readings=worth.readings.get(plan.id),
        effect=worth.effects.get(plan.id),
        external=worth.external.get(plan.id),
        runs=_runs(item, anchor_devs),
        flags=flags,
        failure_modes=_failure_modes(item),
        findings=list(manifest.claims.findings) if manifest else [],
        title=(manifest.title or "") if manifest else "",
        said=manifest.claims.summary if manifest and manifest.title is not None else "",
        text="",
    )
    return summary.model_copy(update={"text": wording.candidate(summary)})


def _runs(item: CandidateFacts, anchor_devs: Mapping[int | None, float]) -> list[RunSummary]:
    """Each run's gain is over the anchor's run of its seed, else over what the anchor stands by."""
    runs = []
    for run in item.manifest.runs if item.manifest else []:
        flags = item.flags(run)
        best = None if flags else run.best
        dev = best.dev if best else None
        anchor_dev = anchor_devs.get(run.seed, anchor_devs.get(None))
        runs.append(
            RunSummary(
                run=run.number,
                change=run.change,
                checkpoint=best.name if best else None,
                dev=None if dev is None else figure(dev),
                gain=None if dev is None or anchor_dev is None else figure(dev - anchor_dev),
                failure=run.failure or (f"flagged: {'; '.join(flags)}" if flags else None),
                curve=run.curve,
            )
        )
    return runs


def _failure_modes(item: CandidateFacts) -> list[str]:
    """What was measured to fail, then what the agent reports."""
    modes = [item.problem] if item.status == "ok" and item.problem else []
    for run in item.manifest.runs if item.manifest else []:
        if run.failure:
            known = run.failure.startswith("run ")
            modes.append(run.failure if known else f"run {run.number}: {run.failure}")
    return modes + (list(item.manifest.claims.failure_modes) if item.manifest else [])


def _patterns(
    facts: RoundFacts, summaries: Sequence[CandidateSummary], held: Stacked | None
) -> Patterns:
    by_category: dict[str, list[float]] = {}
    movers: dict[str, tuple[float, str]] = {}
    for summary in summaries:
        if summary.comparison is None or summary.category is None:
            continue
        by_category.setdefault(summary.category, []).append(summary.comparison.gain)
        for name, value in summary.comparison.domains.items():
            if value and abs(value) > abs(movers.get(name, (0.0, ""))[0]):
                movers[name] = (value, summary.candidate)
    anchor = next((s for s in summaries if s.role == "anchor" and s.dev is not None), None)
    gain_by_category = {k: figure(sum(v) / len(v)) for k, v in sorted(by_category.items())}
    domain_movers = {k: f"{who} {value:+.3f}" for k, (value, who) in sorted(movers.items())}
    weak, share = _weak_domain(facts)
    text = wording.patterns(gain_by_category, domain_movers, (weak, share), anchor, held)
    text = " ".join([text, *wording.damage(summaries)])
    return Patterns(
        gain_by_category=gain_by_category,
        domain_movers=domain_movers,
        weak_domain=weak,
        weak_share=None if weak is None else figure(share),
        stacked=held,
        text=text,
    )


def _weak_domain(facts: RoundFacts) -> tuple[str | None, float]:
    """The domain that holds most of the anchor's errors on dev, if it holds visibly more than an
    even share of them, and the share that it holds. Where dev counts a domain often, lifting it
    lifts dev most, however its accuracy compares."""
    manifest = facts.anchor.usable if facts.anchor else None
    scores = manifest.selected.domains if manifest and manifest.selected else {}
    errors = {name: (1 - item.accuracy) * item.n for name, item in sorted(scores.items())}
    total = sum(errors.values())
    if not total:
        return None, 0.0
    name = max(errors, key=lambda domain: errors[domain])
    share = errors[name] / total
    return (name if share >= VISIBLY_WEAK / len(errors) else None), share


def _devs(anchor: CandidateFacts | None) -> dict[int | None, float]:
    """The anchor's dev by training seed, and under None of what it stands by."""
    manifest = anchor.usable if anchor else None
    if manifest is None or manifest.selected is None:
        return {}
    own: dict[int | None, float] = {
        run.seed: run.best.dev for run in manifest.runs if run.best and run.change.empty
    }
    return {None: manifest.selected.dev, **own}
