"""The report's figures: best LB by round (the paper's Figure 3), dev against LB, dev per domain.

Each figure is drawn twice, for light and for dark pages. Only this module imports matplotlib; it
uses the Agg canvas directly, so no display and no global pyplot state is involved.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from aevo.records.evidence import CandidateSummary
from aevo.view.trajectory import RoundStory, Trajectory

DPI = 160


@dataclass(frozen=True)
class Theme:
    """Colours of one rendering; `rounds` is the colour map that runs from early to late."""

    name: str
    page: str
    ink: str
    muted: str
    grid: str
    dev: str
    lb: str
    rounds: str
    heat: str


LIGHT = Theme(
    "light", "#ffffff", "#1d2530", "#667080", "#e3e7ec", "#c8641b", "#14638f", "viridis_r", "Blues"
)
DARK = Theme(
    "dark", "#15191f", "#e8ebef", "#98a2b0", "#2b323c", "#f0965a", "#6cb6e0", "viridis", "Blues_r"
)


def draw(trajectory: Trajectory) -> dict[str, dict[str, bytes]]:
    """All figures as PNG, `figures[name][theme]`, e.g. `figures["lb_by_round"]["light"]`.

    A figure without anything to show yet is left out.
    """
    makers: dict[str, Callable[[Trajectory, Theme], Figure | None]] = {
        "lb_by_round": lb_by_round,
        "dev_vs_lb": dev_vs_lb,
        "domains": domains,
    }
    figures: dict[str, dict[str, bytes]] = {}
    for name, maker in makers.items():
        for theme in (LIGHT, DARK):
            with matplotlib.rc_context(_style(theme)):
                figure = maker(trajectory, theme)
                if figure is not None:
                    figures.setdefault(name, {})[theme.name] = _png(figure)
    return figures


def lb_by_round(trajectory: Trajectory, theme: Theme) -> Figure | None:
    """The paper's Figure 3: the best LB of each round, every other submission faint beside it."""
    best = _line(trajectory, lambda c: c.lb)
    if not best:
        return None
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    others = [
        (story.number, c.lb)
        for story in trajectory.rounds
        for c in story.scored
        if c.lb is not None and c is not story.best
    ]
    if others:
        axes.scatter(
            *_columns(others),
            s=22,
            color=theme.lb,
            alpha=0.32,
            linewidth=0,
            label="other submissions",
            zorder=2,
        )
    anchors = [
        (s.number, s.anchor.lb) for s in trajectory.rounds if s.anchor and s.anchor.lb is not None
    ]
    if anchors:
        axes.scatter(
            *_columns(anchors),
            s=46,
            facecolor=theme.page,
            edgecolor=theme.lb,
            linewidth=1.3,
            label="anchor (standing recipe)",
            zorder=3,
        )
    axes.plot(
        *_columns(best),
        color=theme.lb,
        marker="o",
        markersize=7,
        linewidth=2,
        label="best of the round",
        zorder=4,
    )
    for x, y in best:
        _label(axes, (x, y), f"{y:.{trajectory.decimals}f}", theme.lb, theme)
    axes.set_ylabel("leaderboard score")
    axes.set_title("Best leaderboard score by round")
    _round_axis(axes, trajectory)
    axes.legend(loc="lower right")
    return figure


def dev_vs_lb(trajectory: Trajectory, theme: Theme) -> Figure | None:
    """Left: dev and LB of each round's best candidate. Right: all submissions, dev against LB."""
    best_lb = _line(trajectory, lambda c: c.lb)
    if not best_lb:
        return None
    figure = Figure(figsize=(10.4, 4.3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.0, 1.08])
    _draw_gap(left, trajectory, theme)
    _draw_scatter(right, trajectory, theme)
    return figure


def domains(trajectory: Trajectory, theme: Theme) -> Figure | None:
    """Dev accuracy per domain of the default recipe and of each round's best candidate."""
    rows = [
        (f"round {s.number} · {s.best.candidate}", s.best.domains)
        for s in trajectory.rounds
        if s.best and s.best.domains
    ]
    first = trajectory.rounds[0].anchor if trajectory.rounds else None
    if first is not None and first.domains:
        rows.insert(0, ("default recipe", first.domains))
    if not rows:
        return None
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    values = [[row.get(name, float("nan")) for name in names] for _, row in rows]
    figure = Figure(figsize=(7.6, 1.5 + 0.46 * len(rows)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, cmap=theme.heat, vmin=0, vmax=1, aspect="auto")
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            if value == value:
                axes.text(
                    x,
                    y,
                    f"{value:.2f}",
                    ha="center",
                    va="center",
                    fontsize=9.5,
                    color=_readable(image.cmap(value)),
                )
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_title("Dev accuracy by domain")
    return figure


def _draw_gap(axes: Any, trajectory: Trajectory, theme: Theme) -> None:
    """Dev and LB of the same candidates by round, and the highest dev anyone reached."""
    dev = _line(trajectory, lambda c: c.dev, of_scored_lb=True)
    lb = _line(trajectory, lambda c: c.lb)
    shared = sorted(dict(dev).keys() & dict(lb).keys())
    axes.fill_between(
        shared,
        [dict(dev)[r] for r in shared],
        [dict(lb)[r] for r in shared],
        color=theme.dev,
        alpha=0.12,
        linewidth=0,
    )
    axes.plot(
        *_columns(dev),
        color=theme.dev,
        marker="s",
        markersize=5.5,
        linewidth=1.8,
        label="dev of the best candidate by LB",
    )
    axes.plot(
        *_columns(lb), color=theme.lb, marker="o", markersize=6.5, linewidth=2, label="its LB"
    )
    tops = [
        (s.number, s.best_dev.dev)
        for s in trajectory.rounds
        if s.best_dev and s.best_dev is not s.best
    ]
    if tops:
        axes.scatter(
            *_columns(tops),
            marker="^",
            s=44,
            facecolor=theme.page,
            edgecolor=theme.dev,
            linewidth=1.2,
            label="highest dev of the round, where another's",
            zorder=4,
        )
    axes.set_ylabel("score")
    axes.set_title("The proxy and the target by round")
    _round_axis(axes, trajectory)
    axes.legend(loc="best")


def _draw_scatter(axes: Any, trajectory: Trajectory, theme: Theme) -> None:
    """Each submission as a point; the arrows join the rounds' best candidates."""
    colours = matplotlib.colormaps[theme.rounds]
    last = max(len(trajectory.rounds) - 1, 1)
    for index, story in enumerate(trajectory.rounds):
        points = [(c.dev, c.lb) for c in story.scored if c.lb is not None]
        if points:
            axes.scatter(
                *_columns(points),
                s=34,
                alpha=0.85,
                linewidth=0.7,
                edgecolor=theme.page,
                color=colours(0.22 + 0.7 * index / last),
                label=f"round {story.number}",
                zorder=3,
            )
    path = [(c.dev, c.lb) for c in _bests(trajectory) if c.lb is not None]
    for story in trajectory.rounds:
        if story.best and story.best.lb is not None:
            _label(axes, (story.best.dev, story.best.lb), str(story.number), theme.ink, theme)
    for start, end in pairwise(path):
        axes.annotate(
            "",
            xy=end,
            xytext=start,
            zorder=2,
            arrowprops={
                "arrowstyle": "->",
                "color": theme.muted,
                "linewidth": 1.3,
                "shrinkA": 3,
                "shrinkB": 4,
            },
        )
    axes.set_xlabel("dev (proxy)")
    axes.set_ylabel("leaderboard (target)")
    axes.set_title("Every submission; arrows follow the rounds' best")
    axes.legend(loc="best")
    _even_ticks(axes.xaxis)
    _even_ticks(axes.yaxis)
    axes.margins(0.1)


def _bests(trajectory: Trajectory) -> list[CandidateSummary]:
    """The default recipe (round 1's anchor), then each round's best candidate."""
    first = trajectory.rounds[0].anchor if trajectory.rounds else None
    bests = [story.best for story in trajectory.rounds]
    return [summary for summary in [first, *bests] if summary is not None]


def _line(
    trajectory: Trajectory,
    value: Callable[[CandidateSummary], float | None],
    of_scored_lb: bool = False,
) -> list[tuple[int, float]]:
    """(round, value) of row 0 and each round's best; `of_scored_lb`: only where LB is known."""
    first = trajectory.rounds[0].anchor if trajectory.rounds else None
    points: list[tuple[int, CandidateSummary | None]] = [(0, first)]
    points += [(story.number, story.best) for story in trajectory.rounds]
    found = []
    for number, summary in points:
        if summary is None or (of_scored_lb and summary.lb is None):
            continue
        score = value(summary)
        if score is not None:
            found.append((number, score))
    return found


def _columns(points: Any) -> tuple[list[float], list[float]]:
    """Points as the two lists that matplotlib wants."""
    return [x for x, _ in points], [y for _, y in points]


def _round_axis(axes: Any, trajectory: Trajectory) -> None:
    numbers = [0, *(story.number for story in trajectory.rounds)]
    labels = ["default\nrecipe", *(_round_label(story) for story in trajectory.rounds)]
    axes.set_xticks(numbers, labels)
    axes.set_xlim(-0.35, numbers[-1] + 0.35)
    axes.grid(False, axis="x")
    axes.margins(y=0.16)
    _even_ticks(axes.yaxis)


def _round_label(story: RoundStory) -> str:
    return f"round {story.number}" + ("\n(unfinished)" if story.evidence is None else "")


def _label(
    axes: Any, point: tuple[float | None, float], text: str, colour: str, theme: Theme
) -> None:
    """Text above a point, with a halo so that a line behind it does not cross it out."""
    axes.annotate(
        text,
        point,
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        color=colour,
        fontweight="bold",
        zorder=6,
        path_effects=[withStroke(linewidth=3.5, foreground=theme.page)],
    )


def _even_ticks(axis: Any) -> None:
    axis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
    axis.get_major_formatter().set_useOffset(False)


def _readable(rgba: tuple[float, float, float, float]) -> str:
    """Black or white, whichever reads better on the colour (relative luminance)."""
    red, green, blue, _ = rgba
    return "#10151c" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "#ffffff"


def _style(theme: Theme) -> Any:
    """Matplotlib's rc parameters of a theme."""
    return {
        "font.size": 10,
        "axes.titlesize": 11.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.labelcolor": theme.muted,
        "axes.titlecolor": theme.ink,
        "axes.edgecolor": theme.grid,
        "axes.facecolor": theme.page,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "figure.facecolor": theme.page,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "text.color": theme.ink,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
    }


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # A fixed Software entry: the same records give the same bytes
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": "aevo"})
    return buffer.getvalue()
