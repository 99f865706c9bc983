"""What each explorer of a round is worth."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from aevo.evidence.inputs import (
    CandidateFacts,
    RoundFacts,
    anchor_boards,
    anchor_groups,
    anchor_scores,
    domain_weights,
    flattered,
    run_domains,
)
from aevo.policy import trials as ledger
from aevo.records.evidence import Effect, Readings
from aevo.records.policy import Trial
from aevo.records.scores import DomainGain
from aevo.statistics.effect import Estimate, Reading, at_odds, pool, spread
from aevo.statistics.figures import figure
from aevo.statistics.multiplicity import holm
from aevo.statistics.noise import (
    SeedBand,
    Variance,
    beyond_items,
    by_recipe,
    difference_band,
    implied_variance,
    lb_noise,
    lb_step,
    pooled,
    rounding,
    seed_band,
)
from aevo.statistics.paired import flip_variance, item_difference
from aevo.substrate.catalogue import Catalogue, move_of

DEFAULT_DECIMALS = 2


@dataclass(frozen=True)
class RoundNoise:
    """The noise of a round's scores on its standing recipe.

    `run` and `score` are the variances of one run's dev and of one leaderboard score between seeds,
    each with the degrees of freedom that it is known with; `flips` is the part of `run` that single
    items give, `domains` what there is beyond them by domain. `boards` scores of the anchor are
    averaged. `seeds` and `repeats` are the spreads of dev and leaderboard between anchors of one
    recipe, over all rounds.
    """

    seeds: SeedBand
    repeats: SeedBand
    band: float
    lb: float
    run: Variance
    flips: float
    score: Variance
    boards: int
    domains: Mapping[str, float]

    @property
    def lb_se(self) -> float:
        """Standard error of one submitted explorer's leaderboard gain over the anchor's mean."""
        return math.sqrt(self.score.value * (1 + 1 / max(self.boards, 1)))


def round_noise(rounds: Sequence[RoundFacts]) -> RoundNoise:
    """The operator's prior, the anchors of all rounds, and the scatter of this round's runs.

    What runs of one recipe scatter by beyond single items is measured on dev, domain by domain. It
    carries over to the leaderboard, whose mixture is not known: there, domains count alike.
    """
    facts, rule = rounds[-1], rounds[-1].policy.noise
    decimals = facts.leaderboard.decimals if facts.leaderboard else DEFAULT_DECIMALS
    devs, boards = anchor_groups(rounds), anchor_boards(rounds)
    runs = _anchor_runs(facts)
    items = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    flips = flip_variance(runs, items)
    by_domain, weights = beyond_items(run_domains(facts)), domain_weights(facts)
    even = dict.fromkeys(weights, 1 / max(len(weights), 1))
    run = by_recipe(
        implied_variance(rule.band_prior),
        *_bands(devs, facts.standing),
        *_carried(by_domain, weights, flips),
    )
    step = lb_step(decimals, rule.lb_prior)
    score = by_recipe(
        step**2 / 2,
        *_bands(boards, facts.standing),
        *_carried(by_domain, even, flips + rounding(decimals)),
    )
    score = replace(score, value=max(score.value, rounding(decimals)))
    return RoundNoise(
        seeds=seed_band(devs),
        repeats=seed_band(boards),
        band=difference_band(rule.band_prior, run.value),
        lb=lb_noise(decimals, rule.lb_prior, score.value),
        run=run,
        flips=flips,
        score=score,
        boards=len(anchor_scores(facts)),
        domains=_beyond(by_domain, weights, run.value - flips),
    )


def _beyond(
    measured: Mapping[str, Variance], weights: Mapping[str, float], whole: float
) -> dict[str, float]:
    """By domain, the variance of a run's accuracy beyond flips: as measured, pooled with an even
    part of the whole score's."""
    squares = sum(weight**2 for weight in weights.values())
    even = max(0.0, whole) / squares if squares else 0.0
    return {
        name: pooled(even, *([measured[name]] if name in measured else [])).value
        for name in weights
    }


def _bands(groups: Mapping[str, Sequence[float]], standing: str) -> tuple[SeedBand, SeedBand]:
    """The spread between runs of what stands, and between those of other recipes."""
    own = {name: values for name, values in groups.items() if name == standing}
    return seed_band(own), seed_band({k: v for k, v in groups.items() if k != standing})


def _carried(
    by_domain: Mapping[str, Variance], weights: Mapping[str, float], items: float
) -> list[Variance]:
    """The variance that the domains' own scatter gives a score in which they have these weights,
    with what single items add; empty where it was not measured."""
    known = [(by_domain[name], weight) for name, weight in weights.items() if name in by_domain]
    if not known:
        return []
    value = sum(weight**2 * found.value for found, weight in known)
    return [Variance(value + items, min(found.dof for found, _ in known))]


def _anchor_runs(facts: RoundFacts) -> list[Mapping[str, bool]]:
    anchor = facts.anchor
    if anchor is None or anchor.usable is None or not anchor.correct:
        return []
    return [anchor.correct, *anchor.replicates]


def readings(facts: RoundFacts, noise: RoundNoise) -> dict[str, Readings]:
    """The gains of every scored explorer over the anchor, by candidate.

    The variance of a dev gain is that of the mean difference over items, which includes the flips
    of single items, and what seeds move in common beyond flips, for the means of the explorer's
    runs of its change and of the anchor's. What the choice among more checkpoints flatters it by is
    taken off.
    """
    runs = _anchor_runs(facts)
    common = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    found = {}
    for item in facts.candidates:
        if item.plan.role != "explorer" or not item.correct or not runs:
            continue
        own = [item.correct, *item.replicates]
        items = [name for name in common if all(name in run for run in own)]
        if not items:
            continue
        gain, variance = item_difference(runs, own, items)
        scatter = 1 / len(own) + 1 / len(runs)
        seeds = max(0.0, noise.run.value - noise.flips) * scatter
        flipping = noise.flips * scatter
        lb = facts.lb_gain(item.plan.id)
        split = _by_domain(facts, items)
        chosen = flattered(facts, item)
        found[item.plan.id] = Readings(
            dev=figure(gain - chosen),
            dev_se=figure(math.sqrt(variance + seeds)),
            dev_shared=figure(math.sqrt(max(0.0, variance - flipping))),
            lb=None if lb is None else figure(lb),
            lb_se=None if lb is None else figure(noise.lb_se),
            domains={
                name: _domain_gain(runs, own, part, noise.domains.get(name, 0.0), chosen)
                for name, part in split.items()
            },
            selection=figure(chosen),
        )
    return found


def _by_domain(facts: RoundFacts, items: Sequence[str]) -> dict[str, list[str]]:
    """The items by domain, as the anchor's predictions name it."""
    known = facts.anchor.domain_of if facts.anchor else {}
    found: dict[str, list[str]] = {}
    for name in items:
        if name in known:
            found.setdefault(known[name], []).append(name)
    return dict(sorted(found.items()))


def _domain_gain(
    runs: Sequence[Mapping[str, bool]],
    own: Sequence[Mapping[str, bool]],
    items: Sequence[str],
    beyond: float,
    chosen: float,
) -> DomainGain:
    """A gain on the items of one domain; `beyond` is the variance of a run's accuracy there that
    single items do not explain, `chosen` what it was flattered by: single items err alike in every
    domain, so that a choice by their mean flatters all domains by as much."""
    gain, variance = item_difference(runs, own, items)
    scatter = 1 / len(own) + 1 / len(runs)
    seeds = beyond * scatter
    flipping = flip_variance(runs, items) * scatter
    floor = 1 / len(items) ** 2  # a domain in which nothing changed is not known without error
    return DomainGain(
        gain=figure(gain - chosen),
        se=figure(math.sqrt(max(variance, floor) + seeds)),
        shared=figure(math.sqrt(max(0.0, variance - flipping))),
    )


def effects(
    facts: RoundFacts, found: Mapping[str, Readings], noise: RoundNoise, external: bool
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
        dev = [
            *ledger.dev_readings(earlier),
            Reading(reading.dev, reading.dev_se, reading.dev_shared),
        ]
        if not external and at_odds(dev, lb):
            # scores that the leaderboard gave on another standing recipe cannot overrule this dev
            dev, lb = ([], lb) if reading.lb is not None else (dev, [])
        alone = external or not dev
        estimate = pool([lb] if alone else [dev, lb])
        if estimate is not None:
            dof = noise.score.dof if alone else noise.run.dof
            known[item.plan.id] = replace(estimate, dof=min(dof, noise.score.dof) if lb else dof)
            basis[item.plan.id] = "leaderboard" if alone else "dev and leaderboard" if lb else "dev"
    adjusted = holm([estimate.p for estimate in known.values()])
    return {
        name: Effect.model_validate(
            {
                "basis": basis[name],
                "gain": figure(one.gain),
                "se": figure(one.se),
                "low": figure(one.low),
                "high": figure(one.high),
                "p": float(f"{one.p:.6g}"),
                "p_adjusted": float(f"{p:.6g}"),
                "trials": one.trials,
                "dof": figure(one.dof),
            }
        )
        for (name, one), p in zip(known.items(), adjusted, strict=True)
    }


def _earlier(facts: RoundFacts, item: CandidateFacts) -> list[Trial]:
    """Earlier trials of the change that the candidate stands by."""
    axis, manifest = item.plan.axis, item.manifest
    if axis is None or manifest is None:
        return []
    found = ledger.of_change(facts.policy.tried, axis.axis, manifest.change)
    again = (
        move_of(Catalogue(axes=[]).with_briefs([axis]).axes[0], manifest.change)
        if axis.own
        else None
    )
    # on another standing recipe the lines around an edit differ, and with them its digest
    named = ledger.of_move(facts.policy.tried, axis.axis, again) if again else []
    return [*found, *(t for t in named if t.change_sha256 and t not in found)]


def bundles(facts: RoundFacts) -> dict[str, int]:
    """The round's bundles: candidate and how many moves it combines."""
    return {
        item.plan.id: len(item.plan.axis.combines)
        for item in facts.candidates
        if item.plan.axis is not None and item.plan.axis.combines
    }


def true_spread(facts: RoundFacts, found: Mapping[str, Readings]) -> float:
    """Standard deviation of true dev gains among the single changes tried so far (empirical
    Bayes). The gains of a bundle's moves add up: their sum varies by the root of their number."""
    together = bundles(facts)
    own = [_single(item.dev, item.dev_se, together.get(name, 1)) for name, item in found.items()]
    earlier = [
        _single(reading.gain, reading.se, len(ledger.parts(trial)))
        for trial in facts.policy.tried
        for reading in ledger.dev_readings([trial])
    ]
    return spread([*earlier, *own], facts.policy.noise.band_prior)


def _single(gain: float, se: float, moves: int) -> Estimate:
    """A bundle's gain as one move of its size would have had it."""
    return Estimate(gain / math.sqrt(moves), se / math.sqrt(moves))
