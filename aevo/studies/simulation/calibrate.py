"""Condenses measured runs of single moves into the data file of a surface.

    python -m aevo.studies.simulation.calibrate WORK_FOLDER OUT.yaml

WORK_FOLDER is that of tests/bench/bench_interventions.py: <move>-<seed>.json with dev and hidden
accuracies by domain, and default-<seed>.json to compare with. The largest of many measured
differences flatter, so each is shrunk by how far differences of its domain are noise (empirical
Bayes, normal, by moments); what is left of the uncertainty is kept as a standard deviation.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from aevo import cli
from aevo.errors import ConfigError, RecordError
from aevo.files.documents import write_text
from aevo.statistics.effect import Estimate, expected

REFERENCE = "default"
FLIPPED = 0.12  # share of items that a changed recipe answers otherwise, at an accuracy of 0.5


def condense(folder: Path) -> dict[str, Any]:
    """Mean effect and its standard deviation by move, split and domain, and the spread of effects.

    Raises:
        RecordError: the folder has no reference runs.
    """
    runs: dict[str, dict[int, Any]] = {}
    for path in sorted(folder.glob("*-*.json")):
        named = re.fullmatch(r"(.+)-(\d+)", path.stem)
        found = json.loads(path.read_text(encoding="utf-8"))
        if named and "dev" in found:
            runs.setdefault(named[1], {})[int(named[2])] = found
    reference = runs.pop(REFERENCE, {})
    if not reference:
        raise RecordError(f"{folder} has no {REFERENCE}-<seed>.json")
    moves: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in runs}
    spread: dict[str, dict[str, float]] = {}
    for split in ("dev", "hidden"):
        spread[split] = {}
        for domain in next(iter(reference.values()))[split]["domains"]:
            seen = {name: _paired(own, reference, split, domain) for name, own in runs.items()}
            shrunk, spread[split][domain] = _shrink({k: v for k, v in seen.items() if v})
            for name, pair in shrunk.items():
                moves[name].setdefault(split, {})[domain] = [round(value, 4) for value in pair]
    scores = {s: [r[s]["dev"] for r in reference.values()] for s in ("dev", "hidden")}
    return {
        "seeds": len(reference),
        "seed_sd": {k: round(float(np.std(v, ddof=1)), 4) for k, v in scores.items()},
        "spread": {s: {d: round(v, 4) for d, v in of.items()} for s, of in spread.items()},
        "moves": {name: found for name, found in sorted(moves.items()) if found},
    }


def _paired(
    own: dict[int, Any], reference: dict[int, Any], split: str, domain: str
) -> tuple[float, float] | None:
    """Mean paired difference over the seeds, and the variance of that mean."""
    seeds = sorted(own.keys() & reference.keys())
    values = [
        own[seed][split]["domains"][domain]["accuracy"]
        - reference[seed][split]["domains"][domain]["accuracy"]
        for seed in seeds
    ]
    if not values:
        return None
    known = [reference[seed][split]["domains"][domain] for seed in seeds]
    level = float(np.mean([item["accuracy"] for item in known]))
    flipped = max(FLIPPED * 4 * level * (1 - level), 1 / known[0]["n"])
    return float(np.mean(values)), flipped / known[0]["n"] * (0.5 + 0.5 / len(values))


def _shrink(seen: dict[str, tuple[float, float]]) -> tuple[dict[str, tuple[float, float]], float]:
    """Posterior means and standard deviations; large effects (twice the spread) stay as they are,
    because the tails of effects are far heavier than normal."""
    gains = np.array([gain for gain, _ in seen.values()])
    noise = float(np.mean([variance for _, variance in seen.values()]))
    middle = float(np.quantile(np.abs(gains), 0.683))
    spread = float(np.sqrt(max(middle**2 - noise, noise / 4)))
    found = {}
    for name, (gain, variance) in seen.items():
        wide = max(spread, abs(gain) / 2)
        mean, left = expected(Estimate(gain, float(np.sqrt(variance))), wide)
        found[name] = mean, float(np.sqrt(left))
    return found, spread


def main(arguments: list[str]) -> None:
    """The command line.

    Raises:
        ConfigError: wrong arguments.
    """
    if len(arguments) != 2:
        raise ConfigError(
            "wrong arguments", "python -m aevo.studies.simulation.calibrate WORK_FOLDER OUT.yaml"
        )
    found = condense(Path(arguments[0]))
    head = "# Effects of single moves, measured and shrunk: [mean, sd] of accuracy by domain.\n"
    text = yaml.safe_dump(found, sort_keys=False, default_flow_style=None, width=120)
    write_text(Path(arguments[1]), head + text)
    print(f"{len(found['moves'])} moves, {found['seeds']} seeds", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
