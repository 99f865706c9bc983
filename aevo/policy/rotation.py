"""Which axes the next round explores, and which categories rest."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from aevo.errors import ConfigError
from aevo.policy import bundles
from aevo.policy.designs import REASON, Design, designs
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
    made: list[AxisBrief] = []
    if situation.policy.stacks_per_round > 1 and situation.mode != "transfer":
        made = _briefs(_designed(situation, n_axes, resting), situation)
    elif (bundle := bundles.bundle(situation, resting)) is not None:
        made = [bundle]
    chosen = _choose(situation, n_axes - len(made), resting, made)
    while chosen is None and made:  # fewer bundles leave more for the rest
        made = made[:-1]
        chosen = _choose(situation, n_axes - len(made), resting, made)
    if chosen is None:
        raise ConfigError(
            f"the catalogue has no {n_axes} orthogonal axes over "
            f"{categories_needed(n_axes, situation.catalogue)} categories",
            "the substrate's axes.yaml must be the one the campaign started with",
        )
    axes = [_brief(situation, axis) for axis in chosen]
    axes += made
    before = set(used_categories(situation.catalogue, situation.policy.axes))
    entering = sorted(set(used_categories(situation.catalogue, axes)) - before)
    return Assignment(axes, _retired(situation, axes, resting), resting, entering)


def _designed(situation: Situation, n_axes: int, resting: Sequence[str]) -> list[Design]:
    """The round's designs, as many as the operator wants, less one where an idle category has to
    come in."""
    made = designs(situation, min(n_axes, situation.policy.stacks_per_round), resting)
    if not resting:
        return made
    before = set(used_categories(situation.catalogue, situation.policy.axes))
    entered = {one.axis.category for design in made for one in design.options} - before
    idle = set(situation.catalogue.categories) - before
    return made if entered or not idle else made[: n_axes - 1]


def _briefs(made: Sequence[Design], situation: Situation) -> list[AxisBrief]:
    """The designs as axes of the policy: one move is a trial of its own axis."""
    briefs: list[AxisBrief] = []
    for design in made:
        if len(design.options) > 1:
            number = sum(bool(brief.combines) for brief in briefs) + 1
            name = bundles.STACK if number == 1 else f"{bundles.STACK}-{number}"
            brief = bundles.brief_for(design.refs, situation.catalogue, REASON, name)
        else:
            only = design.options[0]
            brief = only.axis.brief_for([only.move.id], REASON)
        briefs.append(brief.model_copy(update={"figure": design.figure}))
    return briefs


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
    """The catalogue's categories among a round's axes, with those of bundles' moves; sorted."""
    return sorted({name for axis in axes for name in categories_of(catalogue, axis)})


def categories_of(catalogue: Catalogue, brief: AxisBrief) -> set[str]:
    """The catalogue's categories that an axis of the policy spans: a bundle's are its moves'."""
    parts = (catalogue.axis(part.axis) for part in brief.combines)
    return ({brief.category} & set(catalogue.categories)) | {a.category for a in parts if a}


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
    situation: Situation, n_axes: int, resting: Sequence[str], made: Sequence[AxisBrief]
) -> list[Axis] | None:
    """The preferred axes beside those that were made already; on a plateau one of an idle category
    comes in if there is any.

    Measured changes of several axes may touch the same key, as where all workers turned the same
    one: they cannot all be tried again, and some of the axes are taken as the catalogue has them.
    """
    found = _chosen(situation, situation.offers, n_axes, resting, made)
    if found is None and situation.plain:
        offers = [*situation.offers, *situation.plain]
        found = _chosen(situation, offers, n_axes, resting, made)
    return found


def _chosen(
    situation: Situation,
    offers: Sequence[Axis],
    n_axes: int,
    resting: Sequence[str],
    made: Sequence[AxisBrief],
) -> list[Axis] | None:
    """The preferred ones of these axes, none of which shares a knob with another or with `made`."""
    catalogue = situation.catalogue
    knobs = [knob for brief in made for knob in brief.knobs]
    taken = {brief.axis for brief in made}
    spanned = set(used_categories(catalogue, made))
    needed = categories_needed(len(situation.policy.axes), catalogue)
    ordered = sorted(offers, key=lambda axis: _preference(situation, axis))
    ordered = [
        axis
        for axis in ordered
        if axis.category not in resting
        and axis.id not in taken
        and not shared_knobs(axis.knobs, knobs)
    ]
    before = set(used_categories(catalogue, situation.policy.axes))
    if resting and n_axes and not spanned - before:
        found = with_entrant(ordered, before, n_axes, needed, spanned)
        return found or select(ordered, n_axes, needed, spanned)
    return select(ordered, n_axes, needed, spanned)


def with_entrant(
    ordered: Sequence[Axis],
    current: Collection[str],
    n_axes: int,
    needed: int,
    spanned: Collection[str] = (),
) -> list[Axis] | None:
    """The first choice that has an axis of a category not in `current`; None if there is none."""
    for first in [axis for axis in ordered if axis.category not in current]:
        others = [axis for axis in ordered if axis is not first]
        chosen = select([first, *others], n_axes, needed, spanned)
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
    situation: Situation, chosen: Sequence[AxisBrief], resting: Sequence[str]
) -> list[RetiredAxis]:
    """Past rests stay on record; axes without an open move retire unless they had to be used."""
    number = situation.evidence.round
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
    used = {brief.axis for brief in chosen}
    used |= {part.axis for brief in chosen for part in brief.combines}
    earlier = {item.axis: item for item in situation.policy.retired if item.axis is not None}
    exhausted = [
        earlier.get(axis.id)
        or RetiredAxis(
            axis=axis.id,
            provenance=Provenance(round=number, figure="every move of it stands or is a dead end"),
        )
        for axis in situation.catalogue.axes
        if axis.id not in used and axis.moves and not situation.open_moves(axis)
    ]
    return kept + rests + exhausted
