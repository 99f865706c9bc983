"""Dev/leaderboard calibration of a campaign's rounds, as one section of the evidence."""

import math
from collections.abc import Mapping, Sequence

from aevo.evidence import wording
from aevo.evidence.effects import RoundNoise, bundles
from aevo.evidence.inputs import RoundFacts, domain_parts, domain_weights
from aevo.records.evidence import Calibration, CandidateSummary, Pair
from aevo.statistics import transfer
from aevo.statistics.domains import DomainProbe, DomainShare, leading_share
from aevo.statistics.figures import figure
from aevo.statistics.paired import detectable
from aevo.statistics.transfer import Gain, Point, Slope


def build(
    rounds: Sequence[RoundFacts],
    noise: RoundNoise,
    spread: float,
    summaries: Sequence[CandidateSummary],
) -> Calibration:
    """The calibration section of the last of `rounds`, over the submissions of all of them."""
    facts = rounds[-1]
    points = [point for item in rounds for point in _points(item)]
    gains = transfer.gains(points)
    bests = transfer.round_bests(points)
    slope = transfer.calibrate(gains)
    moves = bundles(facts)
    everyone = [
        item.readings.dev / moves.get(item.candidate, 1)
        for item in summaries
        if item.readings is not None
    ]
    passed = transfer.passage(
        _probes(summaries, moves),
        everyone,
        spread,
        noise.score.value,
        noise.score.value / max(noise.boards, 1),
    )
    source = _source(rounds, summaries, noise)
    judged = transfer.divergence(bests, transfer.Noise(noise.band, noise.lb), passed, source)
    own = bests[-1] if len(bests) > 1 and bests[-1].round == facts.number else None
    calibration = Calibration(
        pairs=_pairs(points, gains, slope),
        seed_sd=maybe(noise.seeds.sd),
        seed_runs=noise.seeds.runs,
        seed_dof=noise.seeds.dof,
        dev_band=figure(noise.band),
        lb_noise=figure(noise.lb),
        run_sd=figure(math.sqrt(noise.run.value)),
        lb_sd=figure(math.sqrt(noise.score.value)),
        lb_runs=noise.repeats.runs,
        spread=figure(spread),
        passed=figure(passed.share) if passed else None,
        passed_se=figure(passed.se) if passed else None,
        source=source.domain if source else None,
        source_passed=figure(source.share) if source else None,
        source_se=figure(source.se) if source else None,
        detectable=_detectable(facts, summaries),
        slope=maybe(slope.slope),
        slope_low=maybe(slope.low),
        slope_high=maybe(slope.high),
        rank_correlation=maybe(slope.rank_correlation),
        best_dev=max((s.dev for s in summaries if s.dev is not None), default=None),
        best_lb=max((s.lb for s in summaries if s.lb is not None), default=None),
        dev_gain_of_round=figure(own.dev - max(b.dev for b in bests[:-1])) if own else None,
        lb_gain_of_round=figure(own.lb - max(b.lb for b in bests[:-1])) if own else None,
        leverage=_leverage(facts, summaries),
        plateau_rounds=transfer.plateau(bests, facts.policy.noise.lb_threshold) if own else 0,
        verdict=judged.verdict,
        reason=judged.reason,
        text="",
    )
    return calibration.model_copy(update={"text": wording.calibration(calibration)})


def _probes(
    summaries: Sequence[CandidateSummary], moves: Mapping[str, int]
) -> list[transfer.Probe]:
    """The submitted explorers' readings of this round."""
    return [
        transfer.Probe(
            item.candidate,
            item.readings.dev,
            item.readings.dev_se,
            item.readings.lb,
            moves.get(item.candidate, 1),
        )
        for item in summaries
        if item.readings is not None and item.readings.lb is not None and not item.change.empty
    ]


def _source(
    rounds: Sequence[RoundFacts], summaries: Sequence[CandidateSummary], noise: RoundNoise
) -> DomainShare | None:
    """The domain that dev's gains come from, and how much of its gains all rounds saw passed on."""
    errors = [item.readings.dev_se**2 for item in summaries if item.readings is not None]
    found = [(facts, name, parts) for facts in rounds for name, parts in domain_parts(facts)]
    if not errors or not found:
        return None
    probes = [
        DomainProbe(facts.number, parts, gain)
        for facts, name, parts in found
        if (gain := facts.lb_gain(name)) is not None
    ]
    weights = domain_weights(rounds[-1])
    chance = sum(errors) / len(errors)
    return leading_share(
        probes,
        [parts for _, _, parts in found],
        {name: weight * chance for name, weight in weights.items()},
        own=noise.score.value,
        shared=noise.score.value / max(noise.boards, 1),
    )


def _detectable(facts: RoundFacts, summaries: Sequence[CandidateSummary]) -> dict[str, float]:
    """By basis, for the median standard error of this round's candidates."""
    tests = sum(item.effect is not None for item in summaries)
    alpha = facts.policy.noise.alpha
    errors: dict[str, list[float]] = {}
    for item in summaries:
        for effect in (item.effect, item.external):
            if effect is not None and effect.trials == 1:
                errors.setdefault(effect.basis, []).append(effect.se)
    return {
        basis: figure(detectable(sorted(values)[len(values) // 2], alpha, tests))
        for basis, values in sorted(errors.items())
    }


def _points(facts: RoundFacts) -> list[Point]:
    """One point per submitted candidate: the means over its submissions."""
    points = []
    for item in facts.candidates:
        own = [
            (entry.dev, entry.score)
            for entry in (facts.leaderboard.submissions if facts.leaderboard else [])
            if entry.candidate == item.plan.id and entry.score is not None
        ]
        if own:
            dev, lb = (sum(values) / len(own) for values in zip(*own, strict=True))
            points.append(Point(facts.number, item.plan.id, item.plan.role == "anchor", dev, lb))
    return points


def _pairs(points: Sequence[Point], gains: Sequence[Gain], slope: Slope) -> list[Pair]:
    residuals = {(gain.round, gain.candidate): slope.residual(gain) for gain in gains}
    return [_pair(point, residuals.get((point.round, point.candidate))) for point in points]


def _pair(point: Point, residual: float | None) -> Pair:
    role = "anchor" if point.anchor else "explorer"
    return Pair.model_validate(
        {
            "round": point.round,
            "candidate": point.candidate,
            "role": role,
            "dev": figure(point.dev),
            "lb": point.lb,
            "residual": maybe(residual),
        }
    )


def _leverage(facts: RoundFacts, summaries: Sequence[CandidateSummary]) -> dict[str, float]:
    sizes: dict[str, int] = {}
    for domain in facts.anchor.domain_of.values() if facts.anchor else ():
        sizes[domain] = sizes.get(domain, 0) + 1
    total = sum(sizes.values())
    probes = [
        transfer.Contribution(
            summary.comparison.gain,
            summary.lb_gain,
            {k: v * sizes[k] / total for k, v in summary.comparison.domains.items()},
        )
        for summary in summaries
        if summary.comparison is not None and summary.lb_gain is not None
    ]
    return {name: figure(value) for name, value in sorted(transfer.leverage(probes).items())}


def maybe(value: float | None) -> float | None:
    return None if value is None else figure(value)
