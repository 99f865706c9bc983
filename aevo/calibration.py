"""Dev/leaderboard calibration of a campaign's rounds, as one section of the evidence."""

from collections.abc import Sequence

from aevo import narrative, statistics
from aevo.facts import RoundFacts
from aevo.records.evidence import Calibration, CandidateSummary, Pair
from aevo.records.leaderboard import Submission

DEFAULT_DECIMALS = 2


def build(
    rounds: Sequence[RoundFacts],
    seeds: statistics.SeedBand,
    band: float,
    summaries: Sequence[CandidateSummary],
) -> Calibration:
    """The calibration section of the last of `rounds`, over the submissions of all of them."""
    facts = rounds[-1]
    points = [point for item in rounds for point in _points(item)]
    gains = statistics.gains(points)
    bests = statistics.round_bests(points)
    slope = statistics.calibrate(gains)
    decimals = facts.leaderboard.decimals if facts.leaderboard else DEFAULT_DECIMALS
    noise = statistics.Noise(band, statistics.lb_noise(decimals))
    judged = statistics.divergence(
        bests, [gain for gain in gains if gain.round == facts.number], noise
    )
    own = bests[-1] if len(bests) > 1 and bests[-1].round == facts.number else None
    calibration = Calibration(
        pairs=[_pair(point) for point in points],
        seed_sd=maybe(seeds.sd),
        seed_runs=seeds.runs,
        seed_dof=seeds.dof,
        dev_band=figure(noise.dev_band),
        lb_noise=figure(noise.lb),
        slope=maybe(slope.slope),
        slope_low=maybe(slope.low),
        slope_high=maybe(slope.high),
        rank_correlation=maybe(slope.rank_correlation),
        best_dev=max((s.dev for s in summaries if s.dev is not None), default=None),
        best_lb=max((s.lb for s in summaries if s.lb is not None), default=None),
        dev_gain_of_round=figure(own.dev - max(b.dev for b in bests[:-1])) if own else None,
        lb_gain_of_round=figure(own.lb - max(b.lb for b in bests[:-1])) if own else None,
        leverage=_leverage(facts, summaries),
        plateau_rounds=statistics.plateau(bests, facts.policy.noise.lb_threshold) if own else 0,
        verdict=judged.verdict,
        reason=judged.reason,
        text="",
    )
    return calibration.model_copy(update={"text": narrative.calibration(calibration)})


def _points(facts: RoundFacts) -> list[statistics.Point]:
    """One point per submitted candidate: its best submission."""
    points = []
    for item in facts.candidates:
        best: Submission | None = None
        for entry in facts.leaderboard.submissions if facts.leaderboard else []:
            if entry.candidate != item.plan.id or entry.score is None:
                continue
            if best is None or best.score is None or entry.score > best.score:
                best = entry
        if best is not None and best.score is not None:
            anchor = item.plan.role == "anchor"
            points.append(
                statistics.Point(facts.number, item.plan.id, anchor, best.dev, best.score)
            )
    return points


def _pair(point: statistics.Point) -> Pair:
    role = "anchor" if point.anchor else "explorer"
    return Pair.model_validate(
        {
            "round": point.round,
            "candidate": point.candidate,
            "role": role,
            "dev": figure(point.dev),
            "lb": point.lb,
        }
    )


def _leverage(facts: RoundFacts, summaries: Sequence[CandidateSummary]) -> dict[str, float]:
    sizes: dict[str, int] = {}
    for domain in facts.anchor.domain_of.values() if facts.anchor else ():
        sizes[domain] = sizes.get(domain, 0) + 1
    total = sum(sizes.values())
    probes = [
        statistics.Contribution(
            summary.comparison.gain,
            summary.lb_gain,
            {k: v * sizes[k] / total for k, v in summary.comparison.domains.items()},
        )
        for summary in summaries
        if summary.comparison is not None and summary.lb_gain is not None
    ]
    return {name: figure(value) for name, value in sorted(statistics.leverage(probes).items())}


def figure(value: float) -> float:
    """Six decimals: more than any score holds, and the same text on every machine."""
    return round(value, 6) + 0.0


def maybe(value: float | None) -> float | None:
    return None if value is None else figure(value)
