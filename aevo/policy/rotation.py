"""Which axes the next round explores, and which categories rest."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from aevo.errors import ConfigError
from aevo.policy import bundles
from aevo.policy.worth import Situation
from aevo.records.evidence import Evidence
from aevo.records.policy import AxisBrief, Provenance, RetiredAxis
from aevo.statistics.figures import signed
from aevo.substrate.catalogue import Axis, Catalogue, categories_needed, select, shared_knobs

PLATEAU_ROUNDS = 2  # rounds without enough leaderboard improvement after which categories rotate


@dataclass(frozen=True)
class Assignment:
    """Axes for the next round, all retirements, and the categories that rest from now on."""

    axes: list[AxisBrief]
    retired: list[RetiredAxis]
    resting: list[str]
    entering: list[str]


def assign(situation: Situation) -> Assignment:
    """Chooses as many axes as the round had, orthogonal, over enough categories.

    Raises:
        ConfigError: the catalogue has no such choice at all (it changed since the first round).
    """
    n_axes = len(situation.policy.axes)
    resting = _resting(situation)
    bundle = bundles.bundle(situation, resting)
    chosen = _choose(situation, n_axes - 1, resting, bundle) if bundle else None
    if chosen is None:
        bundle, chosen = None, _choose(situation, n_axes, resting)
    if chosen is None:
        raise ConfigError(
            f"the catalogue has no {n_axes} orthogonal axes over "
            f"{categories_needed(n_axes, situation.catalogue)} categories",
            "the substrate's axes.yaml must be the one the campaign started with",
        )
    axes = [_brief(situation, axis) for axis in chosen]
    axes += [bundle] if bundle else []
    before = {axis.category for axis in situation.policy.axes}
    entering = sorted({axis.category for axis in chosen} - before)
    return Assignment(axes, _retired(situation, chosen, resting), resting, entering)


def _brief(situation: Situation, axis: Axis) -> AxisBrief:
    """The axis as assigned; what the choice rests on stands apart from what its worker is told."""
    moves = situation.assigned(axis)
    brief = axis.brief_for(moves, _reason(situation, axis))
    return brief.model_copy(update={"figure": _figure(situation, axis)})


def active(retired: Iterable[RetiredAxis], number: int) -> list[RetiredAxis]:
    """The retirements that hold in round `number`."""
    return [item for item in retired if item.until_round is None or item.until_round >= number]


def rotation_due(evidence: Evidence) -> bool:
    """True after two rounds in a row without enough leaderboard improvement."""
    return evidence.calibration.plateau_rounds >= PLATEAU_ROUNDS


def can_rest(catalogue: Catalogue, category: str, n_axes: int) -> bool:
    """True if the catalogue still gives enough axes without that category."""
    rest = [axis for axis in catalogue.axes if axis.category != category]
    return select(rest, n_axes, categories_needed(n_axes, catalogue)) is not None


def used_categories(catalogue: Catalogue, axes: Iterable[AxisBrief]) -> list[str]:
    """The catalogue's categories among a round's axes, sorted."""
    return sorted({axis.category for axis in axes} & set(catalogue.categories))


def pushes(axis: Axis, domain: str) -> bool:
    """True if a knob, key, value or edit of the axis names the domain."""
    texts = [*axis.knobs, *(repr(move.set) for move in axis.moves)]
    texts += [edit.replace for move in axis.moves for edit in move.patch]
    return any(domain in text for text in texts)


def _resting(situation: Situation) -> list[str]:
    """On a plateau, the categories of this round that gained least and can be spared."""
    if not rotation_due(situation.evidence):
        return []
    n_axes = len(situation.policy.axes)
    current = used_categories(situation.catalogue, situation.policy.axes)
    gains = _category_gains(situation.evidence)
    weakest = sorted(current, key=lambda name: (gains.get(name, (0.0, 0.0)), name))
    spare = (name for name in weakest if can_rest(situation.catalogue, name, n_axes))
    return [name for name in [next(spare, None)] if name is not None]


def _category_gains(evidence: Evidence) -> dict[str, tuple[float, float]]:
    """Mean LB gain (0 where unknown) and mean dev gain of each category's explorers."""
    lb: dict[str, list[float]] = {}
    for summary in evidence.candidates:
        if summary.category is not None and summary.lb_gain is not None:
            lb.setdefault(summary.category, []).append(summary.lb_gain)
    return {
        name: (sum(lb[name]) / len(lb[name]) if name in lb else 0.0, gain)
        for name, gain in evidence.patterns.gain_by_category.items()
    }


def _choose(
    situation: Situation, n_axes: int, resting: Sequence[str], bundle: AxisBrief | None = None
) -> list[Axis] | None:
    """The preferred axes beside a bundle; on a plateau one of an idle category comes in if there is
    any."""
    catalogue = situation.catalogue
    needed = categories_needed(n_axes, catalogue)
    ordered = sorted(situation.offers, key=lambda axis: _preference(situation, axis))
    ordered = [
        axis
        for axis in ordered
        if axis.category not in resting and not (bundle and shared_knobs(axis.knobs, bundle.knobs))
    ]
    if resting:
        current = {axis.category for axis in situation.policy.axes}
        return with_entrant(ordered, current, n_axes, needed) or select(ordered, n_axes, needed)
    return select(ordered, n_axes, needed)


def with_entrant(
    ordered: Sequence[Axis], current: Collection[str], n_axes: int, needed: int
) -> list[Axis] | None:
    """The first choice that has an axis of a category not in `current`; None if there is none."""
    for first in [axis for axis in ordered if axis.category not in current]:
        others = [axis for axis in ordered if axis is not first]
        chosen = select([first, *others], n_axes, needed)
        if chosen is not None and first in chosen:
            return chosen
    return None


def _preference(situation: Situation, axis: Axis) -> tuple[bool, bool, bool, float, int]:
    """Lower comes first: open moves, what the mode asks for, then the worth of a trial."""
    moves = situation.open_moves(axis)
    mode = situation.mode
    weak = situation.evidence.patterns.weak_domain
    fits = True
    if mode == "transfer":
        fits = axis.transfer
    elif mode == "proxy_exploitation" and weak is not None:
        fits = pushes(axis, weak) and not axis.transfer
    misled = (
        mode == "transfer"
        and situation.leveraged is not None
        and not axis.transfer
        and pushes(axis, situation.leveraged)
    )
    early = axis.transfer and mode != "transfer"
    worth = situation.value(axis, moves[0]) if moves else 0.0
    last = len(situation.places)
    return (
        not moves,
        not fits,
        misled or early,
        -round(worth, 9),
        situation.places.get(axis.id, last),
    )


def _reason(situation: Situation, axis: Axis) -> str:
    trials, moves = situation.trials(axis), situation.open_moves(axis)
    weak = situation.evidence.patterns.weak_domain
    words = []
    if situation.mode == "transfer" and axis.transfer:
        words.append("transfer axis: may lower dev, should help the leaderboard")
    if situation.mode == "proxy_exploitation" and weak and pushes(axis, weak):
        words.append(f"can lift {weak}, the visibly weak domain")
    assigned = situation.assigned(axis)
    if not moves:
        words.append(
            "catalogue exhausted: replicates the standing recipe or tries moves of its own"
        )
    elif not trials:
        words.append("not explored yet")
    elif assigned[0] not in trials:
        words.append(f"{len(assigned)} moves not tried yet")
    else:
        move, trial = axis.move(assigned[0]), trials[assigned[0]]
        name = "a change of its own" if move and move.source else trial.move
        words.append(f"replicates {name}, undecided in round {trial.round}")
    return "; ".join(words)


def _figure(situation: Situation, axis: Axis) -> str:
    """The figures that a choice rests on; empty where there are none."""
    moves, trials = situation.open_moves(axis), situation.trials(axis)
    if not moves:
        return ""
    words = [f"a trial is worth {signed(situation.value(axis, moves[0]), 4)}"]
    first = situation.assigned(axis)[0]
    if first in trials:
        known = situation.known(axis, first)
        gain = signed(trials[first].gain, 4)
        words.insert(0, f"{signed(known.gain, 4)} ± {known.se:.4f}" if known else gain)
    return "; ".join(words)


def _retired(
    situation: Situation, chosen: Sequence[Axis], resting: Sequence[str]
) -> list[RetiredAxis]:
    """Past rests stay on record; axes without an open move retire unless they had to be used."""
    number, names = situation.evidence.round, {axis.id for axis in chosen}
    kept = [item for item in situation.policy.retired if item.category is not None]
    rests = [
        RetiredAxis(
            category=category,
            until_round=situation.round,
            provenance=Provenance(
                round=number,
                figure=f"{situation.evidence.calibration.plateau_rounds} rounds below the "
                f"leaderboard threshold {situation.policy.noise.lb_threshold:g}",
            ),
        )
        for category in resting
    ]
    earlier = {item.axis: item for item in situation.policy.retired if item.axis is not None}
    exhausted = [
        earlier.get(axis.id)
        or RetiredAxis(
            axis=axis.id,
            provenance=Provenance(round=number, figure="every move of it stands or is a dead end"),
        )
        for axis in situation.catalogue.axes
        if axis.id not in names and axis.moves and not situation.open_moves(axis)
    ]
    return kept + rests + exhausted
