"""Many simulated campaigns of aevo and of its opponents, paired by campaign, surface by surface.

    python tests/bench/bench_decisions.py play --work DIR [--campaigns 1000] [--seed 902]
                                          [--rounds 4] [--surfaces paper onset …] [--methods …]
    python tests/bench/bench_decisions.py table --work DIR [the same]

`play` adds what DIR lacks, in blocks of 20 campaigns over all methods and surfaces, so that it may
be killed and started again, and every table made on the way is a fair one; about 0.4 CPU seconds a
campaign with all opponents. `table` prints what there is: true hidden gain of what each method
ships, and aevo's less every other's with half widths of 95 % intervals. Further words are settings
of conf/, as for `python -m aevo.simulate`: `policy.lb_noise=0.045` is a prior thrice too large;
they stand before the options.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from aevo.files.documents import write_text
from aevo.simulate import default_bench
from aevo.statistics import paired
from aevo.studies.simulation import study
from aevo.studies.simulation.ablation import ABLATIONS
from aevo.studies.simulation.surface import preset

SURFACES = ["paper", "aligned", "onset", "tiny", "loud", "collapse", "no_effect"]
METHODS = ["aevo", "greedy_board", "greedy_confirmed", "thompson", "halving", "oracle"]
BLOCK = 20


def path_of(args: argparse.Namespace, surface: str, method: str, block: int) -> Path:
    """Where a block's outcomes lie."""
    return Path(args.work / f"{surface}-{method}-{args.seed}-{args.rounds}-{block:04d}.json")


def play(args: argparse.Namespace, settings: list[str]) -> None:
    """Plays the blocks that are missing."""
    paired.BOOTSTRAP_DRAWS = 10  # of intervals that stand in the evidence for readers alone
    gc.set_threshold(100_000)
    bench = default_bench(settings)
    args.work.mkdir(parents=True, exist_ok=True)
    for block in range(args.campaigns // BLOCK):
        for surface in args.surfaces:
            for method in args.methods:
                path = path_of(args, surface, method, block)
                if path.exists():
                    continue
                first = args.seed * 1_000_000 + block * BLOCK
                made = [
                    study.play(study.Task(method, surface, (), first + index, args.rounds), bench)
                    for index in range(BLOCK)
                ]
                write_text(path, json.dumps([vars(item) for item in made]))
        print(f"{(block + 1) * BLOCK} campaigns a surface", flush=True)


def read(args: argparse.Namespace, surface: str, method: str) -> dict[int, dict[str, Any]]:
    """All outcomes there are, by seed."""
    paths = (path_of(args, surface, method, block) for block in range(args.campaigns // BLOCK))
    found = [one for path in paths if path.exists() for one in json.loads(path.read_text())]
    return {one["seed"]: one for one in found}


def half(values: np.ndarray) -> float:
    """Half width of the mean's 95 % interval."""
    return float(1.96 * values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else 0.0


def table(args: argparse.Namespace) -> str:
    """What there is, as Markdown: gains, then how often it is wrong, with Wilson's intervals."""
    others = [name for name in args.methods if name != "aevo"]
    gains = [
        "| surface | campaigns | aevo stands by | ships |"
        + "".join(f" less {name} |" for name in others),
        "|---|---|---|---|" + "---|" * len(others),
    ]
    errors = [
        "| surface | steps false / round | claims false / round | detected in a round "
        "| false alarms / campaign |",
        "|---|---|---|---|---|",
    ]
    for surface in args.surfaces:
        own = read(args, surface, "aevo")
        if not own:
            continue
        stood, shipped = (np.array([o[k] for o in own.values()]) for k in ("hidden", "shipped"))
        row = f"| {surface} | {len(own)} | {mean(stood)} | {mean(shipped)} |"
        for name in others:
            theirs = read(args, surface, name)
            both = sorted(own.keys() & theirs.keys())
            less = np.array([own[seed]["shipped"] - theirs[seed]["shipped"] for seed in both])
            row += f" {mean(less)} |" if both else " |"
        gains.append(row)
        errors.append(f"| {surface} | {wrong(list(own.values()), preset(surface).onset)} |")
    return "\n".join([*gains, "", *errors])


def mean(values: np.ndarray) -> str:
    """With the half width of its 95 % interval."""
    return f"{values.mean():+.4f} ± {half(values):.4f}"


def wrong(own: list[dict[str, Any]], onset: int | None) -> str:
    """Shares of rounds with false steps and false claims; of campaigns in which "not evidence" was
    said in the round of the onset or the next, and before it (on a surface without one: at all)."""
    rounds = sum(one["rounds"] for one in own)
    cells = [
        share(sum(one[key] for one in own), rounds) for key in ("false_rounds", "false_claims")
    ]
    late = sum("not_evidence" in o["verdicts"][onset - 1 : onset + 1] for o in own if onset)
    early = sum("not_evidence" in one["verdicts"][: onset and onset - 1] for one in own)
    cells += [share(late, len(own)) if onset else "", share(early, len(own))]
    return " | ".join(cells)


def share(successes: int, trials: int) -> str:
    """A rate with Wilson's 95 % interval."""
    low, high = study.wilson(successes, trials)
    return f"{successes / trials:.3f} ({max(0.0, low):.3f} to {high:.3f})"


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["play", "table"])
    parser.add_argument("--work", type=Path, required=True, help="keeps the blocks")
    parser.add_argument("--campaigns", type=int, default=1000, help="a surface")
    parser.add_argument("--seed", type=int, default=902)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--surfaces", nargs="+", default=SURFACES, choices=SURFACES)
    parser.add_argument(
        "--methods", nargs="+", default=METHODS, choices=[*study.METHODS, *ABLATIONS]
    )
    args, settings = parser.parse_known_args()
    if args.what == "play":
        play(args, settings)
    print(table(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
