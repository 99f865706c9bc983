"""Phase 6: a training that is killed with -9 and started again ends as if undisturbed."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

from train import megatron
from train.mcore import backend  # noqa: F401  imported before it is forked

from tests.bench.gpu import models
from tests.bench.gpu.phase import Phase

STEPS, MARKS = 24, 6
SAME = 1e-5


def run(here: Phase) -> None:
    """Three processes: undisturbed, killed, resumed."""
    base = models.tiny(here)
    train, recipe = models.data(here, models.recipe(STEPS, 8, MARKS))

    def start(out: str) -> Any:
        command = ["--recipe", recipe, "--data", train, "--base", base, "--seed", "7",
                   "--out", here.folder / out]  # fmt: skip
        return here.start(_train, [str(word) for word in command])

    whole, broken = start("whole"), start("broken")
    metrics = here.folder / "broken" / "metrics.jsonl"
    while _lines(metrics) < STEPS // 4 + 1 and broken.is_alive():
        time.sleep(0.002)
    broken.kill()
    broken.join()
    at = _lines(metrics)
    again = start("broken")
    for process in (whole, again):
        process.join()
    here.hold("both end", [whole.exitcode, again.exitcode] == [0, 0])
    in_time = broken.exitcode == -signal.SIGKILL and at < STEPS
    here.hold("it was killed in the middle", in_time, at)
    one, two = (models.losses(here.folder / out) for out in ("whole", "broken"))
    here.hold("every step once", len(one) == len(two) == STEPS)
    here.below(
        "losses, killed and undisturbed",
        max(abs(a - b) for a, b in zip(one, two, strict=True)),
        SAME,
    )


def _train(arguments: list[str]) -> None:
    sys.exit(megatron.main(arguments))


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
