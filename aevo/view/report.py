"""A campaign's report: the paper's Table 2 and Figure 3, and every round in detail."""

import base64
from pathlib import Path
from typing import Any

import jinja2

from aevo.files import words
from aevo.files.documents import write_bytes, write_text
from aevo.files.paths import Layout
from aevo.policy.shipping import read_options
from aevo.records.evidence import CandidateSummary
from aevo.view import figures, subdomains
from aevo.view.trajectory import Trajectory, read_trajectory

FIGURES = {
    "lb_by_round": "Best leaderboard score of each round (the paper's Figure 3). Faint points are "
    "the round's other submissions; the hollow one is the anchor, which runs the standing recipe "
    "untouched and so shows what was really carried forward.",
    "dev_vs_lb": "Dev against leaderboard. A constant distance is harmless; where dev rises and LB "
    "does not follow, candidates fit the proxy and dev is no longer evidence.",
    "domains": "Dev accuracy per domain: the default recipe, then each round's best candidate by "
    "LB.",
}


def write_report(root: Path, out: Path | None = None) -> Path:
    """Writes the report of the campaign at `root` into `out` (default: `<root>/report`).

    Returns:
        The path of `index.html`, which is written last; every file is replaced atomically.

    Raises:
        RecordError: `root` holds no campaign, a record is corrupt, or the disk refused.
    """
    trajectory = read_trajectory(root)
    folder = out or Layout(root).report
    drawn = figures.draw(trajectory)
    for name, themes in drawn.items():
        write_bytes(folder / f"{name}.png", themes["light"])
    parts = subdomains.by_round(Layout(root), trajectory.rounds)
    write_text(folder / "report.md", _render("report.md.j2", trajectory, drawn, parts))
    page = folder / "index.html"
    write_text(page, _render("report.html.j2", trajectory, drawn, parts))
    return page


def _render(
    template: str,
    trajectory: Trajectory,
    drawn: dict[str, dict[str, bytes]],
    parts: dict[int, list[subdomains.Row]],
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("aevo.view"),
        autoescape=template.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        finalize=words.clean_text if template.endswith(".html.j2") else words.markdown_text,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    decimals = trajectory.decimals
    environment.filters.update(
        dev=lambda value: _score(value, 3),
        lb=lambda value: _score(value, decimals),
        gain=_gain,
        minutes=_minutes,
        dollars=lambda value: "$ unknown" if value is None else f"${value:.2f}",
        cell=words.cell,
        sentence=_sentence,
    )
    return environment.get_template(template).render(
        t=trajectory,
        rows=trajectory.table(),
        best=_best_row(trajectory),
        subdomains=parts,
        ship=next(iter(read_options(Layout(trajectory.root))), None),
        figures={name: _data_uris(drawn[name]) for name in FIGURES if name in drawn},
        captions=FIGURES,
    )


def _best_row(trajectory: Trajectory) -> Any:
    """The row with the campaign's best LB, or None before anything was submitted."""
    rows = [row for row in trajectory.table() if row.lb is not None]
    return max(rows, key=lambda row: (row.lb, row.dev), default=None)


def _data_uris(themes: dict[str, bytes]) -> dict[str, str]:
    return {
        theme: "data:image/png;base64," + base64.b64encode(png).decode()
        for theme, png in themes.items()
    }


def _score(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:.{decimals}f}"


def _gain(candidate: CandidateSummary) -> str:
    """Gain over the anchor with its 95 % interval: `+0.031 [+0.012, +0.050]`."""
    found = candidate.comparison
    return f"{found.gain:+.3f} [{found.low:+.3f}, {found.high:+.3f}]" if found else "–"


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _sentence(text: str) -> str:
    """A phrase from a record with a capital and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
