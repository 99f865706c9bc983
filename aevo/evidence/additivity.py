"""Additivity: whether what was promoted after the last round holds together as it stands."""

import math
from collections.abc import Iterable, Sequence

from aevo.evidence.effects import RoundNoise
from aevo.evidence.inputs import RoundFacts, anchor_groups, anchor_scores
from aevo.policy import trials as ledger
from aevo.records.evidence import Stacked
from aevo.statistics.effect import Estimate, Reading, combined, expected, pool
from aevo.statistics.figures import figure

SHORT = 2.0  # standard errors by which a step misses its promise


def additivity(rounds: Sequence[RoundFacts], noise: RoundNoise, spread: float) -> Stacked | None:
    """Whether the changes promoted after the last round hold on the new standing recipe.

    While dev is not evidence, by the leaderboard alone.
    """
    facts = rounds[-1]
    fresh = [c for c in facts.policy.standing if c.provenance.round == facts.number - 1]
    before = next((item for item in rounds if item.number == facts.number - 1), None)
    if not fresh or before is None:
        return None
    external = facts.policy.divergence_known
    known = [_promise(facts, change.provenance.candidate, external) for change in fresh]
    promises = [item for item in known if item is not None]
    step = _step(before, facts, noise, external)
    if step is None or len(promises) < len(fresh):
        return None
    promise = _sum(expected(item, spread) for item in promises)
    kept = combined([promise, step])
    short = step.gain < promise.gain - SHORT * math.hypot(promise.se, step.se)
    return Stacked(
        changes=[change.id for change in fresh],
        expected=figure(promise.gain),
        expected_se=figure(promise.se),
        step=figure(step.gain),
        step_se=figure(step.se),
        kept=figure(kept.gain),
        verdict="reversed" if kept.gain < 0 else "falls_short" if short else "holds",
    )


def _sum(parts: Iterable[tuple[float, float]]) -> Estimate:
    """The sum of independent gains, each a mean and a variance."""
    means, variances = zip(*parts, strict=True)
    return Estimate(sum(means), math.sqrt(sum(variances)))


def _promise(facts: RoundFacts, candidate: str | None, external: bool) -> Estimate | None:
    trials = [
        trial
        for trial in facts.policy.tried
        if trial.round == facts.number - 1
        and trial.candidate == candidate
        and trial.outcome in ("promoted", "likely")
    ]
    return ledger.known(trials, external)


def _step(
    before: RoundFacts, now: RoundFacts, noise: RoundNoise, external: bool
) -> Estimate | None:
    """What this round's anchor gained over the last one's; their seeds differ."""
    dev: list[Reading] = []
    old, new = _anchor_devs(before), _anchor_devs(now)
    if old and new and not external:
        gain = sum(new) / len(new) - sum(old) / len(old)
        dev.append(Reading(gain, math.sqrt(noise.run.value * (1 / len(old) + 1 / len(new)))))
    lb: list[Reading] = []
    was, is_ = anchor_scores(before), anchor_scores(now)
    if was and is_:
        error = math.sqrt(noise.score.value * (1 / len(was) + 1 / len(is_)))
        lb.append(Reading(sum(is_) / len(is_) - sum(was) / len(was), error))
    return pool([dev, lb])


def _anchor_devs(facts: RoundFacts) -> list[float]:
    return [dev for devs in anchor_groups([facts]).values() for dev in devs]
