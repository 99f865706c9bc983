"""What the ledger of trials knows of a move: its readings, pooled (policy section "What has been
tried")."""

from collections.abc import Sequence

from aevo.records.change import Change
from aevo.records.policy import MoveRef, Policy, Trial
from aevo.statistics.effect import Estimate, Reading, pool


def dev_readings(trials: Sequence[Trial]) -> list[Reading]:
    """The trials' gains on dev that have a standard error."""
    return [
        Reading(trial.dev, trial.dev_se, trial.dev_shared)
        for trial in trials
        if trial.dev is not None and trial.dev_se is not None
    ]


def lb_readings(trials: Sequence[Trial]) -> list[Reading]:
    """The trials' gains on the leaderboard that have a standard error."""
    return [
        Reading(trial.lb_gain, trial.lb_se)
        for trial in trials
        if trial.lb_gain is not None and trial.lb_se is not None
    ]


def of_change(tried: Sequence[Trial], axis: str, change: Change) -> list[Trial]:
    """All trials of exactly this change: of the axis, or of a bundle, which each round numbers
    anew. A worker names its move, so the name alone proves nothing."""
    digest = change.sha256
    return [t for t in tried if (t.axis == axis or t.combines) and t.change_sha256 == digest]


def of_move(tried: Sequence[Trial], axis: str, move: str) -> list[Trial]:
    """All trials of one move, in the order of their rounds."""
    return [trial for trial in tried if (trial.axis, trial.move) == (axis, move)]


def parts(trial: Trial) -> list[MoveRef]:
    """The moves that a trial tried: its own, or all that its bundle combined."""
    return trial.combines or [MoveRef(axis=trial.axis, move=trial.move)]


def moves_of(tried: Sequence[Trial], number: int, candidate: str | None) -> list[MoveRef]:
    """The moves that a candidate of a round stood by; none for the anchor."""
    return [
        part
        for trial in tried
        if (trial.round, trial.candidate) == (number, candidate) and trial.change_sha256
        for part in parts(trial)
    ]


def standing_moves(policy: Policy) -> list[MoveRef]:
    """The moves that the standing recipe is made of, in the order they came."""
    return [
        part
        for item in policy.standing
        for part in moves_of(policy.tried, item.provenance.round, item.provenance.candidate)
    ]


def known(trials: Sequence[Trial], external: bool) -> Estimate | None:
    """What these trials of one move say of its effect; `external`: by the leaderboard alone."""
    sources = [lb_readings(trials)] if external else [dev_readings(trials), lb_readings(trials)]
    return pool(sources)
