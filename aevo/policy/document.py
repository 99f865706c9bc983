"""The rolling search policy: the operator's first one, its reading and writing, its Markdown.

`policy/round-KK.yaml` is the record; `round-KK.md` is rendered from it for people and agents.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from aevo.config.policy import PolicySettings
from aevo.errors import ConfigError
from aevo.files import documents, words
from aevo.files.paths import Layout
from aevo.records.policy import (
    MODE_TITLES,
    AxisBrief,
    NoiseRule,
    OwnMove,
    Policy,
    Provenance,
    Selection,
)
from aevo.statistics.figures import signed
from aevo.substrate.catalogue import Axis, Catalogue, categories_needed, select

DEAD_ENDS_TITLE = "Don't waste budget on"  # the paper's literal section title


def first_policy(
    settings: PolicySettings, catalogue: Catalogue, n_axes: int, trainings: int | None = None
) -> Policy:
    """The operator's policy for round 1; `trainings` are what each explorer may start.

    Raises:
        ConfigError: an axis is not in the catalogue, or it cannot give `n_axes` orthogonal axes.
    """
    chosen = select(_by_priority(settings, catalogue), n_axes, categories_needed(n_axes, catalogue))
    if chosen is None:
        raise ConfigError(
            f"the substrate's axes.yaml has no {n_axes} axes that share no knob and span "
            f"{categories_needed(n_axes, catalogue)} categories",
            "lower the number of candidates or add axes to the catalogue",
        )
    start = Provenance(round=0, figure="operator's prior")
    return Policy(
        round=1,
        mode=settings.mode,
        mode_reason=settings.reason,
        objective="maximise_transfer" if settings.mode == "transfer" else "maximise_dev",
        axes=[a.brief_for([m.id for m in a.moves], "the operator's choice") for a in chosen],
        stack_up_to=settings.stack_up_to,
        stacks_per_round=settings.stacks_per_round,
        likely_per_round=settings.likely_per_round,
        trainings=trainings,
        noise=NoiseRule(
            promotion_threshold=settings.promotion_threshold,
            lb_threshold=settings.lb_threshold,
            promotions_per_round=settings.promotions_per_round,
            prior=settings.promotion_threshold,
            band_prior=settings.seed_band,
            lb_prior=settings.lb_noise,
            alpha=settings.alpha,
            provenance=start,
        ),
        selection=Selection(provenance=start),
        provenance=[start],
    )


def _by_priority(settings: PolicySettings, catalogue: Catalogue) -> list[Axis]:
    wanted = settings.axes or catalogue.first
    unknown = [name for name in wanted if catalogue.axis(name) is None]
    if unknown:
        known = ", ".join(axis.id for axis in catalogue.axes)
        raise ConfigError(f"policy.axes names unknown {', '.join(unknown)}", f"known: {known}")
    named = [axis for name in wanted if (axis := catalogue.axis(name)) is not None]
    rest = [axis for axis in catalogue.axes if axis not in named]
    return named + sorted(rest, key=lambda axis: axis.transfer)


def write(layout: Layout, policy: Policy) -> Path:
    """Writes the Markdown and then the record; the record marks the policy as finished."""
    path = layout.policy(policy.round)
    documents.write_text(path.with_suffix(".md"), render(policy))
    documents.write_yaml(path, policy, f"Search policy of round {policy.round}. Written once.")
    return path


def read(layout: Layout, number: int) -> Policy:
    """The policy of that round.

    Raises:
        RecordError: missing or not valid.
    """
    return documents.read(Policy, layout.policy(number))


def digest(policy: Policy) -> str:
    """sha256 of the policy's content, whatever its formatting on disk."""
    return hashlib.sha256(policy.model_dump_json().encode()).hexdigest()


def render(policy: Policy) -> str:
    """The policy as Markdown, with the paper's section titles."""
    sections = [
        ("Search mode", _mode(policy)),
        ("Standing recipe", _standing(policy)),
        ("Search axes", [line for axis in policy.axes for line in _axis(axis)]),
        ("Noise rules", _noise(policy)),
        ("Checkpoint selection", _selection(policy)),
        (DEAD_ENDS_TITLE, _dead_ends(policy)),
        ("Retired axes", _retired(policy)),
        ("What has been tried", _tried(policy)),
        ("Provenance", [f"- {_cite(item)}" for item in policy.provenance]),
    ]
    lines = [f"# Search policy of round {policy.round}"]
    for title, body in sections:
        lines += ["", f"## {title}", "", *(body or ["Nothing yet."])]
    return "\n".join(map(words.markdown, lines)) + "\n"


def _mode(policy: Policy) -> list[str]:
    asked = {
        "maximise_dev": "Raise dev; dev is taken as evidence of the leaderboard.",
        "maximise_transfer": "Raise the leaderboard, even where that lowers dev: "
        "dev is no longer taken as evidence.",
    }[policy.objective]
    return [f"**{MODE_TITLES[policy.mode]}** ({policy.mode_reason}).", "", asked]


def _standing(policy: Policy) -> list[str]:
    if not policy.standing:
        return ["The substrate's own recipe, unchanged."]
    head = ["Every fork starts from the substrate with these changes, in this order:", ""]
    return head + [
        f"{index}. `{item.id}` ({item.axis}): {item.change.summary()}. {_cite(item.provenance)}"
        for index, item in enumerate(policy.standing, start=1)
    ]


def _axis(axis: AxisBrief) -> list[str]:
    mark = ", transfer" if axis.transfer else ""
    combined = [f"{part.axis}/{part.move}" for part in axis.combines]
    return [
        f"- **{axis.axis}** ({axis.category}{mark}): {' '.join(axis.brief.split())}",
        f"  - knobs: {_names(axis.knobs)}",
        f"  - all of these moves together: {_names(combined)}"
        if combined
        else f"  - moves worth trying: {_names(axis.moves)}",
        f"  - why: {axis.reason}" + (f" ({axis.figure})" if axis.figure else ""),
        *(f"  - its own: {_own(move)}" for move in axis.own),
        *_allotted(axis),
    ]


def _own(move: OwnMove) -> str:
    named = f"{move.title}: " if move.title else ""
    measured = f", as {move.source} measured it" if move.source else ""
    return f"`{move.id}` ({named}{move.change.summary()}{measured})"


def _allotted(axis: AxisBrief) -> list[str]:
    asked = [f"{axis.trainings} trainings"] if axis.trainings else []
    asked += [f"its change on {axis.seeds} seeds"] if axis.seeds > 1 else []
    return [f"  - allotted: {', '.join(asked)}"] if asked else []


def _noise(policy: Policy) -> list[str]:
    rule = policy.noise
    if rule.seed_sd is None:
        spread = "not measured yet"
    else:
        spread = f"{rule.seed_sd:.4f} over {rule.seed_runs} anchor runs"
    return [
        f"- Promotion threshold: an effect above {rule.promotion_threshold:.4f} "
        f"with Holm-adjusted p <= {rule.alpha:g}.",
        f"- Leaderboard threshold: {rule.lb_threshold:.3f}.",
        f"- Standard deviation of dev between seeds: {spread}.",
        f"- The operator's prior, never undercut: {rule.prior:.4f}.",
        f"- {_cite(rule.provenance)}",
    ]


def _selection(policy: Policy) -> list[str]:
    chosen = policy.selection
    weights = ", ".join(f"{name} {value:g}" for name, value in sorted(chosen.weights.items()))
    words = f" with weights {weights}" if weights else ""
    return [f"Criterion `{chosen.criterion}`{words}. {_cite(chosen.provenance)}"]


def _dead_ends(policy: Policy) -> list[str]:
    return [
        f"- **{item.axis} / {item.move}**: {item.what}. {_cite(item.provenance)}"
        for item in policy.dont_waste_budget_on
    ]


def _retired(policy: Policy) -> list[str]:
    lines = []
    for item in policy.retired:
        what = f"axis {item.axis}" if item.axis else f"category {item.category}"
        until = "for good" if item.until_round is None else f"until round {item.until_round}"
        lines.append(f"- {what}, {until}. {_cite(item.provenance)}")
    return lines


def _tried(policy: Policy) -> list[str]:
    if not policy.tried:
        return []
    head = ["| round | candidate | axis | move | dev gain | LB gain | outcome |", "|" + "---|" * 7]
    return head + [
        f"| {t.round} | {t.candidate} | {t.axis} | {t.move.replace('|', '/')} "
        f"| {signed(t.gain)} | {signed(t.lb_gain)} | {t.outcome}: {t.reason.replace('|', '/')} |"
        for t in policy.tried
    ]


def _cite(item: Provenance) -> str:
    candidate = f", {item.candidate}" if item.candidate else ""
    return f"[round {item.round}{candidate}: {item.figure}]"


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none left: propose your own"
