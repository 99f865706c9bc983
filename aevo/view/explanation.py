"""The story of one move: each of its trials, what was believed of it before and after, how it ends.

Computed from the policies alone, whose ledgers hold every trial with its figures.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aevo.errors import ConfigError, RecordError
from aevo.files import documents
from aevo.files.paths import Layout
from aevo.policy import document as policies
from aevo.policy import trials as ledger
from aevo.policy.posterior import posterior, trust
from aevo.records.evidence import Evidence
from aevo.records.policy import MoveRef, Policy, Trial
from aevo.statistics.effect import Estimate
from aevo.statistics.figures import signed


@dataclass(frozen=True)
class Ended:
    """A round that ended: its evidence, and the policy that it led to."""

    evidence: Evidence
    policy: Policy

    def believed(self, ref: MoveRef) -> Estimate:
        """The move's gain on the target by all trials up to this round."""
        believed = trust(self.evidence.calibration, self.policy.objective)
        return posterior(self.policy.tried, believed).of([ref])


def ended(layout: Layout) -> list[Ended]:
    """The rounds that have evidence and led to a policy, in their order.

    Raises:
        RecordError: none has, or a record is corrupt.
    """
    found = [
        Ended(documents.read(Evidence, files.evidence), policies.read(layout, files.number + 1))
        for files in layout.rounds()
        if files.evidence.exists() and layout.policy(files.number + 1).exists()
    ]
    if not found:
        raise RecordError(
            f"no round of {layout.root} has ended yet",
            f"python -m aevo.status {layout.root} says how far it is",
        )
    return found


def resolve(name: str, rounds: Sequence[Ended]) -> MoveRef:
    """The move of that name, `axis/move` or the move alone, among those that were tried.

    Raises:
        ConfigError: none was, or moves of several axes have the name.
    """
    known = {
        (part.axis, part.move): part
        for trial in rounds[-1].policy.tried
        for part in ledger.parts(trial)
    }
    fitting = [part for (axis, move), part in known.items() if name in (move, f"{axis}/{move}")]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(sorted(f"{axis}/{move}" for axis, move in known)) or "none"
    what = "was not tried" if not fitting else "is the name of several moves"
    raise ConfigError(f"{name} {what}", f"tried so far: {names}")


def story(ref: MoveRef, rounds: Sequence[Ended]) -> list[str]:
    """The move's story, line by line."""
    return [f"{ref.axis}/{ref.move}", "", *_rounds(ref, rounds), "", _ending(ref, rounds)]


def _rounds(ref: MoveRef, rounds: Sequence[Ended]) -> Iterator[str]:
    before: Estimate | None = None
    for one in rounds:
        own = [
            trial
            for trial in one.policy.tried
            if trial.round == one.evidence.round and ref in ledger.parts(trial)
        ]
        after = one.believed(ref)
        for trial in own:
            yield f"Round {trial.round}, {trial.candidate}: {_measured(trial, ref)}."
            yield f"  judged {trial.outcome.replace('_', ' ')}: {trial.reason}"
        if own:
            prior = "nothing was known of it" if before is None else f"before, {_belief(before)}"
            yield f"  {prior}; after, {_belief(after)}"
            before = after


def _measured(trial: Trial, ref: MoveRef) -> str:
    with_ = [f"{part.axis}/{part.move}" for part in trial.combines if part != ref]
    alone = f"together with {', '.join(with_)}" if with_ else "alone"
    return (
        f"tried {alone}, dev {_gain(trial.dev, trial.dev_se)}, leaderboard "
        f"{_gain(trial.lb_gain, trial.lb_se)}"
    )


def _gain(gain: float | None, error: float | None) -> str:
    if gain is None:
        return "not measured"
    return signed(gain, 4) if error is None else f"{signed(gain, 4)} ± {error:.4f}"


def _belief(found: Estimate) -> str:
    size = f"{signed(found.gain, 4)} ± {found.se:.4f}"
    return f"expected {size} on the target (a gain at {1 - found.p:.0%})"


def _ending(ref: MoveRef, rounds: Sequence[Ended]) -> str:
    """Why it stands, was dropped, is a dead end, or is open."""
    policy = rounds[-1].policy
    for item in policy.standing:
        if ref in ledger.moves_of(policy.tried, item.provenance.round, item.provenance.candidate):
            how = "established by" if item.established else "it is only likely, by"
            return f"It stands as {item.id}: {how} {item.provenance.figure}."
    for dead in policy.dont_waste_budget_on:
        if (dead.axis, dead.move) == (ref.axis, ref.move):
            cited = dead.provenance
            return f"It is a dead end since round {cited.round}: {dead.what} [{cited.figure}]."
    for before, after in reversed(list(itertools.pairwise(rounds))):
        if ref in ledger.standing_moves(before.policy):
            return f"It stood, and left after round {after.evidence.round}: the anchor lost by it."
    return "It is open: neither established nor a dead end. A later round may try it again."
