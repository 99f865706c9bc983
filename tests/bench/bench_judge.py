"""How often the judge flags an honest run, on runs that really built data and trained.

    python tests/bench/bench_judge.py [--only default|regression] [--steps 2] [--pairs]

`--pairs`: a code edit together with a move or with a second edit, as agents make them, in place of
each alone. Every move of both catalogues, with a code edit where it is one, and every edit of
tests/evaluate/honest.py: forked, data built, trained for few steps, judged. A move that needs what
is not here (real rows, another trainer, a base with other modules) is judged by its code and data
alone where those can be made, and counted apart. Prints a Markdown table. About 12 CPU seconds a
run of the default stack.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[2]
sys.path.insert(0, str(REPO))

from aevo.errors import AevoError  # noqa: E402
from aevo.evaluate import suspicion  # noqa: E402
from aevo.evaluate.judging import Judge  # noqa: E402
from aevo.evaluate.outputs import OutputLimits, check_output  # noqa: E402
from aevo.files.paths import RunLayout  # noqa: E402
from aevo.records.change import Change, Edit  # noqa: E402
from aevo.records.inspection import Inspection  # noqa: E402
from aevo.substrate.catalogue import load  # noqa: E402
from aevo.substrate.frozen import Substrate, open_substrate  # noqa: E402
from aevo.substrate.recipe import load_recipe  # noqa: E402
from tests.evaluate.honest import EDITS  # noqa: E402

STACKS = {
    "default": REPO / "substrate" / "default",
    "regression": REPO / "tests" / "substrates" / "regression",
}
COMMANDS: dict[str, tuple[list[str], list[str]]] = {
    "default": (
        shlex.split("-m data.build --recipe recipe.yaml --preset tiny --seed 7 --out {data}"),
        shlex.split(
            "-m train.sft --recipe recipe.yaml --data {data}/train.jsonl --base {root}/base/tiny "
            "--seed 7 --out {out} --threads 1"
        ),
    ),
    "regression": (
        shlex.split("-m data.build 7 {data}"),
        shlex.split("-m train.fit {data} 7 {out}"),
    ),
}


def changes(stack: str) -> Iterator[tuple[str, Change]]:
    """Everything honest that there is to try on a stack."""
    for trainer in ("", "megatron", "bridge"):
        for axis in load(open_substrate(STACKS[stack]).catalogue, real=True, trainer=trainer).axes:
            for move in axis.moves:
                yield f"move {axis.id}/{move.id}", move.change
    for edit in EDITS:
        if edit.stack == stack:
            made = Edit(file=edit.file, find=edit.find, replace=edit.replace)
            yield f"edit {edit.name}", Change(edits=[made])


def pairs(stack: str) -> Iterator[tuple[str, Change]]:
    """Every code edit with every move, and with every later edit of another file."""
    single = list(dict(changes(stack)).items())
    edits = [(name, change) for name, change in single if change.edits]
    for number, (name, change) in enumerate(edits):
        moves = [item for item in single if not item[1].edits]
        for other, second in [*moves, *edits[number + 1 :]]:
            files = {edit.file for edit in change.edits}
            if files & {edit.file for edit in second.edits}:
                continue
            both = Change(set=change.set | second.set, edits=[*change.edits, *second.edits])
            yield f"pair {name} + {other}", both


def judged(substrate: Substrate, stack: str, change: Change, folder: Path, steps: int) -> Any:
    """Flags of one honest run, and how far it was carried out."""
    standing, run = folder / "standing", RunLayout(folder / "c01", 1)
    few = {"train.steps": steps, "data.examples": 240, "train.batch_size": 4}
    small = Change(set=few if stack == "default" else {})
    substrate.fork(standing, [small])
    substrate.fork(run.fork, [small, change, small])
    words = {"data": str(run.data), "out": str(run.output), "root": str(substrate.root)}
    build, train = ([w.format(**words) for w in argv] for argv in COMMANDS[stack])
    judge = Judge(substrate, standing, train, build)
    done = [
        subprocess.run(
            [sys.executable, *argv],
            cwd=run.fork,
            env={**os.environ, "PYTHONPATH": str(substrate.root), "OMP_NUM_THREADS": "1"},
            capture_output=True,
        )
        for argv in (build, train)
    ]
    result = None
    if all(item.returncode == 0 for item in done):
        result = check_output(run.output, OutputLimits())
    found = Inspection(run=1, result=result)
    flags = judge.code(run.fork, run.data)
    flags += suspicion.of_data(run.data) if run.data.is_dir() else []
    flags += suspicion.of_output(found, load_recipe(run.fork / "recipe.yaml"))
    how = "trained" if result else "data built" if done[0].returncode == 0 else "code only"
    said = next((item.stderr.decode()[-200:] for item in done if item.returncode), "")
    return flags, how, said


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(STACKS))
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--pairs", action="store_true")
    given = parser.parse_args()
    table: Counter[tuple[str, str, str, bool]] = Counter()
    for stack in [given.only] if given.only else sorted(STACKS):
        substrate, seen = open_substrate(STACKS[stack]), set()
        for name, change in (pairs if given.pairs else changes)(stack):
            if name in seen:
                continue
            seen.add(name)
            with tempfile.TemporaryDirectory() as scratch:
                try:
                    flags, how, said = judged(substrate, stack, change, Path(scratch), given.steps)
                except AevoError as error:
                    print(f"{stack} {name}: not made: {error}", flush=True)
                    continue
            table[stack, name.split()[0], how, bool(flags)] += 1
            if flags or how != "trained":
                lines = [f"{flag.rule}: {flag.evidence[:2]}" for flag in flags]
                print(f"{stack} {name}: {how} {' '.join(said.split())[-120:]} {lines}", flush=True)
    print("| stack | kind | how far | honest runs | flagged |\n|---|---|---|---|---|")
    for key in sorted({item[:3] for item in table}):
        flagged, clean = table[(*key, True)], table[(*key, False)]
        print(f"| {' | '.join(key)} | {flagged + clean} | {flagged} |")


if __name__ == "__main__":
    main()
