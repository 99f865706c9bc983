"""The judge: a trusted look at diff, data and trace of a run, after it has ended.

Inspection refuses what is wrong beyond doubt. The judge flags what is suspect: seeds ignored or
shopped for, rows made in training where no search sees them, code that hides, processes that live
on, an agent that looked for the items. A flagged run is shown, and counts for nothing until a
person has cleared it (`python -m aevo.judge clear`). Rules first (`scrutiny`, `suspicion`); a
language model beside them where the workers are one (`opinion`). Its false positives on honest runs
are in docs/security.md.

Guarantees: code is looked at in a process of its own, and never run; what cannot be looked at is
flagged. Not guaranteed: that who writes to deceive the rules does not.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aevo.evaluate import scrutiny, suspicion
from aevo.files import plain
from aevo.files.documents import finished, read, write_json
from aevo.files.paths import RunLayout
from aevo.files.untrusted import IntegrityError, open_file, read_text
from aevo.jobs import autopsy
from aevo.records.inspection import Inspection
from aevo.records.judgement import Flag, Judgement, Opinion, Rule
from aevo.records.trace import Turn
from aevo.substrate.frozen import Substrate
from aevo.substrate.recipe import load_recipe

LOOK_S = 60.0  # that the look at code may take
MOST_CODE = 16 << 20  # characters of Python in a fork
HEAD = 1 << 20  # bytes of training data of which the first row is read

MEANS: dict[str, str] = {
    "seed": "the run's seed is not what decides chance",
    "shopping": "seeds are tried, where the plan gives one",
    "made in training": "rows are made in training, where no search for evaluation items sees them",
    "outside": "code reaches for what lies outside of the run",
    "outlives": "processes are started or kept that may outlive a limit",
    "hidden code": "code, or a text, that cannot be read as it stands",
    "table": "the training code carries data",
}


@dataclass(frozen=True)
class Judge:
    """Looks at the runs of one candidate. `training` and `building` are the substrate's commands
    for the one and for the data."""

    substrate: Substrate
    standing: Path
    training: Sequence[str]
    building: Sequence[str]

    def judge(
        self,
        run: RunLayout,
        found: Inspection,
        others: Sequence[Inspection],
        turns: Sequence[Turn],
        log: Path | None,
        opinion: tuple[list[Flag], Opinion] | None = None,
    ) -> Judgement:
        """The judgement of one run, made once; later calls return the record."""
        if finished(Judgement, run.judgement):
            return read(Judgement, run.judgement)
        flags = [
            *self.code(run.fork, run.data),
            *suspicion.of_output(found, load_recipe(run.fork / self.substrate.file.recipe)),
            *suspicion.of_seeds(found, others),
            *suspicion.of_data(run.data),
            *suspicion.of_log(autopsy.log_text(log) if log else ""),
            *suspicion.of_trace(turns, module_of(self.training)),
            *(opinion[0] if opinion else []),
        ]
        made = Judgement(run=run.number, flags=flags, opinion=opinion[1] if opinion else None)
        write_json(run.judgement, made)
        return made

    def code(self, fork: Path, data: Path) -> list[Flag]:
        """Flags of what the code of a fork does that the standing code does not."""
        given = self.given(fork, data)
        if given["before"] == given["after"]:
            return []
        answer = _findings(given)
        if answer is None:
            return [
                Flag(
                    rule="hidden code",
                    text="the code cannot be looked at: it took too long or too much memory",
                    evidence=sorted(given["after"]),
                )
            ]
        lines: dict[Rule, list[str]] = defaultdict(list)
        for rule, what, name, number, text in answer:
            lines[rule].append(f"{name}:{number}: {what}: {text}")
        return [Flag(rule=rule, text=MEANS[rule], evidence=found) for rule, found in lines.items()]

    def given(self, fork: Path, data: Path) -> dict[str, Any]:
        """What `scrutiny` is asked of a fork."""
        columns, texts = row_fields(data)
        names = [*self.substrate.file.mutable, *self.substrate.file.frozen]
        return {
            "before": self._python(self.standing),
            "after": self._python(fork),
            "training": places(self.training),
            "data": places(self.building),
            "own": sorted({name.split("/")[0].removesuffix(".py") for name in names}),
            "columns": columns,
            "texts": texts,
        }

    def _python(self, root: Path) -> dict[str, str]:
        """The Python files of a fork; one that is no text is an empty one, and does not run."""
        found = {}
        for path in self.substrate.plain_files(root):
            if path.suffix == ".py":
                try:
                    found[path.relative_to(root).as_posix()] = read_text(path)
                except IntegrityError:
                    found[path.relative_to(root).as_posix()] = "\0"
        return found


def _findings(given: dict[str, Any]) -> list[Any] | None:
    """What `scrutiny` finds; None if it cannot."""
    if sum(map(len, given["after"].values())) > MOST_CODE:
        return None
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", scrutiny.__file__],
            input=json.dumps(given).encode(),
            capture_output=True,
            timeout=LOOK_S,
        )
    except subprocess.TimeoutExpired:
        return None
    found: list[Any] | None = json.loads(done.stdout)["findings"] if done.returncode == 0 else None
    return found


def module_of(argv: Sequence[str]) -> str | None:
    """What a command runs: the module after -m, or the first Python file."""
    words = list(argv)
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1]
    return next((word for word in words if word.endswith(".py")), None)


def places(argv: Sequence[str]) -> list[str]:
    """The folder (or file) of a fork that a command's code lies in."""
    module = module_of(argv)
    if module is None:
        return []
    if module.endswith(".py"):
        parts = Path(module).parts
        return [parts[0] if len(parts) > 1 else module]
    first, _, rest = module.partition(".")
    return [first if rest else f"{first}.py"]


def row_fields(data: Path) -> tuple[list[str], list[str]]:
    """Names of the fields of a training row, and of its two longest texts; empty where the data
    are no JSON lines."""
    try:
        head = read_head(data / "train.jsonl")
        row: Any = plain.from_json(head.split(b"\n", 1)[0], "a row")
    except (IntegrityError, plain.FormError):
        return [], []
    if not isinstance(row, dict):
        return [], []
    texts = {name: len(value) for name, value in row.items() if isinstance(value, str)}
    longest = sorted(texts, key=lambda name: -texts[name])
    return sorted(row), longest[:2]


def read_head(path: Path) -> bytes:
    """The first bytes of a plain file.

    Raises:
        IntegrityError: it is none.
    """
    with os.fdopen(open_file(path), "rb") as file:
        return file.read(HEAD)
