"""The learning curve of a run, from the metrics that worker-written code left."""

import json
from typing import Any

from aevo.files import words
from aevo.files.paths import RunLayout
from aevo.files.untrusted import read_end

SPREAD, LAST = 8, 4  # lines shown: spread over the run, and its last, where it may have blown up
READ_BYTES = 4 * 1024 * 1024  # of the end of the metrics
WIDTH = 200


def curve(run: RunLayout) -> list[str]:
    """A few lines of a run's metrics, oldest first; none if there are none that can be read."""
    lines = read_end(run.metrics, READ_BYTES).decode(errors="replace").splitlines()
    every = max(1, len(lines) // SPREAD)
    chosen = sorted({*range(0, len(lines), every), *range(len(lines))[-LAST:]})
    return [said for index in chosen if (said := _point(lines[index]))]


def _point(line: str) -> str:
    """One line of metrics in few characters: `step 12, loss 0.4031`; empty if it is no line."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):  # also what is nested to bring the reader down
        return ""
    values = data if isinstance(data, dict) else {}
    said = ", ".join(
        f"{name} {_short(value)}"
        for name, value in values.items()
        if isinstance(value, int | float)
    )
    return words.line(said, WIDTH)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
