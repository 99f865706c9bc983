"""The record of a check for people: phases, checks that do not hold, figures beside estimates."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]
FIGURES = {  # column: unit, keys of a figure: measured, estimated
    "tokens/s": ("rate", "rate_estimated"),
    "MFU": ("mfu", "mfu_estimated"),
    "peak GiB": ("peak_gib", "peak_gib_estimated"),
    "layer ms": ("layer_ms", "layer_ms_estimated"),
}


def table(record: Record) -> str:
    """Markdown of the whole record."""
    facts = {k: v for phase in record["phases"] for k, v in phase["facts"].items()}
    lines = [
        "# gpu_check" + (", dry run on CPU: no figure below is one of a GPU" * record["dry"]),
        "",
        f"{facts.get('card', 'no GPU')}, driver {facts.get('driver', 'none')}, torch "
        f"{facts.get('torch', '?')}, commit {(record['commit'] or 'unknown')[:12]}; "
        f"{record.get('seconds', 0)} s.",
        "",
        "| phase | | s | checks held | not held |",
        "|---|---|---|---|---|",
    ]
    for phase in sorted(record["phases"], key=lambda phase: phase["number"]):
        wrong = [f"{c['what']}: {shown(c['value'])}" for c in phase["checks"] if not c["held"]]
        lines.append(
            f"| {phase['number']} {phase['name']} | {phase['status']} | {phase['seconds']} "
            f"| {sum(c['held'] for c in phase['checks'])} of {len(phase['checks'])} "
            f"| {'; '.join(wrong).replace('|', '/')} |"
        )
    figures = [figure for phase in record["phases"] for figure in phase["figures"]]
    if figures:
        lines += ["", "Measured / as `aevo.scale` estimates it.", ""]
        lines += [f"| what | {' | '.join(FIGURES)} | busy share |", "|---" * 6 + "|"]
        for figure in figures:
            cells = [
                f"{shown(figure.get(one))} / {shown(figure.get(other))}" if one in figure else ""
                for one, other in FIGURES.values()
            ]
            cells = [figure["what"], *cells, shown(figure.get("busy"))]
            lines.append(f"| {' | '.join(cells)} |")
    skipped = [one for phase in record["phases"] for one in phase["skipped"]]
    if skipped:
        lines += ["", "Not tried:", ""]
        lines += [f"- {one['what']}: {one['why']}" for one in skipped]
    lines += ["", "What each check found:", ""]
    for phase in sorted(record["phases"], key=lambda phase: phase["number"]):
        lines += [
            f"- {phase['number']} {check['what']}: {shown(check['value'])} ({check['wanted']})"
            for check in phase["checks"]
        ]
    return "\n".join(lines) + "\n"


def shown(value: Any) -> str:
    """A value in a few characters."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
