"""The learning curve of a run, from the metrics that worker-written code left."""

import json
from typing import Any

from aevo.files import words
from aevo.files.paths import RunLayout
from aevo.files.untrusted import read_end

SPREAD, LAST = 8, 4  # lines shown: spread over the run, and its last, where it may have blown up
READ_BYTES = 4 * 1024 * 1024  # of the end of the metrics
WIDTH = 200
LARGEST = 2**53  # a step or loss that a record keeps


def curve(run: RunLayout) -> list[str]:
    """A few lines of a run's metrics, oldest first; none if there are none that can be read."""
    lines = read_end(run.metrics, READ_BYTES).decode(errors="replace").splitlines()
    every = max(1, len(lines) // SPREAD)
    chosen = sorted({*range(0, len(lines), every), *range(len(lines))[-LAST:]})
    return [said for index in chosen if (said := _point(lines[index]))]


def losses(run: RunLayout) -> list[tuple[int, float]]:
    """The loss at up to `SPREAD` steps, evenly over what the metrics hold and with the last.

    Numbers alone, so that a record of them carries no text of a worker's. The last line of a step
    counts, as after a kill; a step whose loss is no number, or beyond all measure, has none.
    """
    found: dict[int, float] = {}
    for line in read_end(run.metrics, READ_BYTES).splitlines():
        values = _values(line)
        step, loss = values.get("step"), values.get("loss")
        if type(step) is not int or not isinstance(loss, int | float):
            continue
        if 0 <= step < LARGEST and abs(loss) < LARGEST:  # false for what is no number
            found[step] = float(f"{loss:.4g}")
    steps = sorted(found)
    last = len(steps) - 1
    places = {round(last * part / (SPREAD - 1)) for part in range(SPREAD)} if steps else set()
    return [(steps[place], found[steps[place]]) for place in sorted(places)]


def _values(line: str | bytes) -> dict[str, Any]:
    """One line of metrics; empty if it is no line of them."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):  # also what is nested to bring the reader down
        return {}
    return data if isinstance(data, dict) else {}


def _point(line: str) -> str:
    """One line of metrics in few characters: `step 12, loss 0.4031`; empty if it is no line."""
    said = ", ".join(
        f"{name} {_short(value)}"
        for name, value in _values(line).items()
        if isinstance(value, int | float)
    )
    return words.line(said, WIDTH)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
