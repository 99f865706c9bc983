"""What each explorer of a round is worth."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aevo.evidence.inputs import CandidateFacts, RoundFacts, anchor_boards, anchor_groups
from aevo.policy import trials as ledger
from aevo.records.evidence import Effect, Readings
from aevo.records.policy import Trial
from aevo.statistics.effect import Estimate, Reading, at_odds, pool, spread
from aevo.statistics.figures import figure
from aevo.statistics.multiplicity import holm
from aevo.statistics.noise import (
    SeedBand,
    difference_band,
    lb_noise,
    lb_variance,
    run_variance,
    seed_band,
)
from aevo.statistics.paired import flip_variance, item_difference

DEFAULT_DECIMALS = 2


@dataclass(frozen=True)
class RoundNoise:
    """The noise of a round's scores: `run` and `flips` are variances of one run's dev, as a whole
    and by single items alone; `score` that of one leaderboard score."""

    seeds: SeedBand
    boards: SeedBand
    band: float
    lb: float
    run: float
    flips: float
    score: float


def round_noise(rounds: Sequence[RoundFacts]) -> RoundNoise:
    """Measured on the anchors of all rounds, pooled with the operator's prior."""
    facts = rounds[-1]
    prior = facts.policy.noise.band_prior
    seeds, boards = seed_band(anchor_groups(rounds)), seed_band(anchor_boards(rounds))
    decimals = facts.leaderboard.decimals if facts.leaderboard else DEFAULT_DECIMALS
    runs = _anchor_runs(facts)
    items = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    return RoundNoise(
        seeds=seeds,
        boards=boards,
        band=difference_band(prior, seeds),
        lb=lb_noise(decimals, boards, facts.policy.noise.lb_prior),
        run=run_variance(prior, seeds),
        flips=flip_variance(runs, items),
        score=lb_variance(decimals, boards, facts.policy.noise.lb_prior),
    )


def _anchor_runs(facts: RoundFacts) -> list[Mapping[str, bool]]:
    anchor = facts.anchor
    if anchor is None or anchor.usable is None or not anchor.correct:
        return []
    return [anchor.correct, *anchor.replicates]


def readings(facts: RoundFacts, noise: RoundNoise) -> dict[str, Readings]:
    """The gains of every scored explorer over the anchor, by candidate.

    The variance of a dev gain is that of the mean difference over items, which includes the flips
    of single items, and what seeds move in common beyond flips, for the explorer and for the
    anchor's mean.
    """
    runs = _anchor_runs(facts)
    board = facts.leaderboard
    anchor_lb = board.score_of(facts.anchor.plan.id) if board and facts.anchor else None
    common = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    found = {}
    for item in facts.candidates:
        if item.plan.role != "explorer" or not item.correct or not runs:
            continue
        items = [name for name in common if name in item.correct]
        if not items:
            continue
        gain, variance = item_difference(runs, item.correct, items)
        seeds = max(0.0, noise.run - noise.flips) * (1 + 1 / len(runs))
        flipping = noise.flips * (1 + 1 / len(runs))
        lb = board.score_of(item.plan.id) if board else None
        known = lb is not None and anchor_lb is not None
        found[item.plan.id] = Readings(
            dev=figure(gain),
            dev_se=figure(math.sqrt(variance + seeds)),
            dev_shared=figure(math.sqrt(max(0.0, variance - flipping))),
            lb=figure(lb - anchor_lb) if lb is not None and anchor_lb is not None else None,
            lb_se=figure(math.sqrt(2 * noise.score)) if known else None,
        )
    return found


def effects(
    facts: RoundFacts, found: Mapping[str, Readings], external: bool
) -> dict[str, Effect]:
    """The effect of every explorer that changed something, pooled with its move's earlier trials.

    Where dev and leaderboard contradict each other, the leaderboard decides alone. `external`: it
    does for all; explorers that it did not see in this round have none then, because earlier scores
    were on top of another standing recipe.
    """
    known: dict[str, Estimate] = {}
    basis: dict[str, str] = {}
    for item in facts.candidates:
        reading = found.get(item.plan.id)
        if reading is None or item.manifest is None or item.manifest.change.empty:
            continue
        if external and reading.lb is None:
            continue
        earlier = _earlier(facts, item)
        lb = ledger.lb_readings(earlier)
        if reading.lb is not None and reading.lb_se is not None:
            lb.append(Reading(reading.lb, reading.lb_se))
        dev = [*ledger.dev_readings(earlier),
               Reading(reading.dev, reading.dev_se, reading.dev_shared)]
        if not external and at_odds(dev, lb):
            # scores that the leaderboard gave on another standing recipe cannot overrule this dev
            dev, lb = ([], lb) if reading.lb is not None else (dev, [])
        estimate = pool([lb] if external else [dev, lb])
        if estimate is not None:
            known[item.plan.id] = estimate
            alone = external or not dev
            basis[item.plan.id] = (
                "leaderboard" if alone else "dev and leaderboard" if lb else "dev"
            )
    adjusted = holm([estimate.p for estimate in known.values()])
    return {
        name: Effect.model_validate({
            "basis": basis[name], "gain": figure(one.gain), "se": figure(one.se),
            "low": figure(one.low), "high": figure(one.high), "p": float(f"{one.p:.6g}"),
            "p_adjusted": float(f"{p:.6g}"), "trials": one.trials,
        })
        for (name, one), p in zip(known.items(), adjusted, strict=True)
    }


def _earlier(facts: RoundFacts, item: CandidateFacts) -> list[Trial]:
    """Earlier trials of the change that the candidate stands by."""
    axis, manifest = item.plan.axis, item.manifest
    if axis is None or manifest is None:
        return []
    return ledger.of_change(facts.policy.tried, axis.axis, manifest.change)


def bundles(facts: RoundFacts) -> dict[str, int]:
    """The round's bundles: candidate and how many moves it combines."""
    return {
        item.plan.id: len(item.plan.axis.combines)
        for item in facts.candidates
        if item.plan.axis is not None and item.plan.axis.combines
    }


def true_spread(facts: RoundFacts, found: Mapping[str, Readings]) -> float:
    """Standard deviation of true dev gains among the single changes tried so far (empirical
    Bayes)."""
    single = [item for name, item in found.items() if name not in bundles(facts)]
    own = [Estimate(item.dev, item.dev_se) for item in single]
    tried = [trial for trial in facts.policy.tried if not trial.combines]
    earlier = [Estimate(r.gain, r.se) for r in ledger.dev_readings(tried)]
    return spread([*earlier, *own], facts.policy.noise.band_prior)
