"""What a campaign would ship: of all adapters it trained, the one of highest expected score."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from aevo.files import documents
from aevo.files.paths import Layout
from aevo.policy import document, trials
from aevo.policy.posterior import posterior, trust
from aevo.records.change import Change
from aevo.records.evidence import CandidateSummary, Evidence
from aevo.records.policy import Policy
from aevo.statistics.effect import Estimate, expected


@dataclass(frozen=True)
class Finished:
    """A round that ended: the policy it ran under, and its evidence."""

    policy: Policy
    evidence: Evidence


@dataclass(frozen=True)
class Option:
    """A trained candidate that could be shipped (accuracies, 0..1).

    `expected` is its score over the default recipe's, on whatever `basis` the campaign trusts in
    the end; `step` the part of it that its own change is thought to add to the standing recipe it
    was trained on, with standard error `se`. `standing` are that recipe's changes.
    """

    round: int
    candidate: str
    expected: float
    step: float
    se: float
    basis: str
    change: Change
    standing: tuple[str, ...]

    @property
    def recipe(self) -> str:
        """The default recipe's changes in words."""
        own = [] if self.change.empty else [self.change.summary()]
        return " + ".join([*self.standing, *own]) or "the default recipe"


def options(rounds: Sequence[Finished], ending: Policy) -> list[Option]:
    """Every scored candidate, the best first; of equals the latest, and there the anchor.

    What its moves add is what the posterior of all trials expects of them; where dev no longer is
    evidence, only of a candidate that the leaderboard saw.

    Args:
        rounds: from the first on, without a gap.
        ending: the policy that the last of them led to. Where it no longer takes dev as evidence,
            effects are those on the leaderboard alone, for the rounds before too.
    """
    external = ending.divergence_known
    if not rounds:
        return []
    believed = posterior(ending.tried, trust(rounds[-1].evidence.calibration, ending.objective))
    found = []
    for one, level in zip(rounds, levels(rounds, external), strict=True):
        standing = tuple(item.change.summary() for item in one.policy.standing)
        for item in one.evidence.candidates:
            if item.status != "ok" or item.dev is None:
                continue
            step, se, basis = promised(item, one.evidence, external)
            own = trials.moves_of(ending.tried, one.evidence.round, item.candidate)
            if own and not (external and item.external is None):
                gain = believed.of(own)
                step, se = gain.gain, gain.se
            found.append(
                Option(
                    one.evidence.round,
                    item.candidate,
                    level + step,
                    step,
                    se,
                    basis,
                    item.change,
                    standing,
                )
            )
    return sorted(found, key=lambda item: (-item.expected, -item.round, item.candidate))


def promised(
    item: CandidateSummary, evidence: Evidence, external: bool
) -> tuple[float, float, str]:
    """What a candidate's change is thought to add: posterior mean and standard deviation where true
    effects spread around none, and what that rests on."""
    effect = item.external if external else item.effect
    if item.change.empty:
        return 0.0, 0.0, "the standing recipe"
    if effect is None:
        return 0.0, evidence.calibration.spread, "not on the leaderboard"
    gain, variance = expected(Estimate(effect.gain, effect.se), evidence.calibration.spread)
    return gain, math.sqrt(variance), effect.basis


def levels(rounds: Sequence[Finished], external: bool) -> list[float]:
    """Expected score of each round's standing recipe over the first round's."""
    found = [0.0]
    for one, after in itertools.pairwise(rounds):
        found.append(found[-1] + _moved(one, after, external))
    return found


def _moved(one: Finished, after: Finished, external: bool) -> float:
    """What the standing recipe gained from one round to the next: as the next anchor and the trial
    together say (R6), else as the trial promised; less what a demoted change had gained."""
    before = {item.id for item in one.policy.standing}
    entered = [item for item in after.policy.standing if item.id not in before]
    left = before - {item.id for item in after.policy.standing}
    gained = 0.0
    held, gone = after.evidence.patterns.stacked, one.evidence.patterns.stacked
    if entered and held is not None:
        gained += held.kept
    else:
        by_name = {item.candidate: item for item in one.evidence.candidates}
        trials = [by_name.get(item.provenance.candidate or "") for item in entered]
        gained += sum(promised(item, one.evidence, external)[0] for item in trials if item)
    if left and gone is not None:
        gained -= gone.kept
    return gained


def read_options(layout: Layout) -> list[Option]:
    """The options of a campaign on disk, as far as its rounds have ended; empty before that.

    Raises:
        RecordError: a record is corrupt.
    """
    rounds: list[Finished] = []
    for files in layout.rounds():
        if not files.evidence.exists() or not layout.policy(files.number + 1).exists():
            break
        rounds.append(
            Finished(document.read(layout, files.number), documents.read(Evidence, files.evidence))
        )
    return options(rounds, document.read(layout, len(rounds) + 1)) if rounds else []
