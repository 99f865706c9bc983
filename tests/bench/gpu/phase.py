"""One phase in a process of its own: it imports its libraries, waits to be told, runs, and notes.

What it finds goes line by line into WORK/NAME.jsonl, so that a phase that is ended has left what it
knew. A failure is a check that does not hold; the traceback is in the log.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Phase:
    """What a phase works with: where, on what, and its notes."""

    def __init__(self, name: str, work: Path, dry: bool) -> None:
        self.name, self.shared, self.dry = name, work, dry
        self.folder = work / name
        self.device = torch.device("cpu" if dry else "cuda")
        self.lines = work / f"{name}.jsonl"

    def note(self, **facts: Any) -> None:
        """What was seen."""
        self._write({"facts": facts})

    def figure(self, **figure: Any) -> None:
        """A row of the table of figures."""
        self._write({"figure": figure})

    def below(self, what: str, value: float, limit: float) -> None:
        """A check: the value is at most the limit."""
        held = bool(value <= limit)  # not for NaN
        self._write(
            {"check": {"what": what, "value": value, "wanted": f"at most {limit:g}", "held": held}}
        )

    def hold(self, what: str, held: bool, value: Any = None) -> None:
        """A check: it is so."""
        shown = value if value is not None else ("yes" if held else "no")
        self._write({"check": {"what": what, "value": shown, "wanted": "so", "held": bool(held)}})

    def skip(self, what: str, why: str) -> None:
        """What could not be tried here."""
        self._write({"skipped": {"what": what, "why": why}})

    def start(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """`work` in a process of its own, which is joined or killed by the caller."""
        context: Any = multiprocessing.get_context("fork" if self.dry else "spawn")
        process = context.Process(target=work, args=arguments)
        process.start()
        return process

    def _write(self, line: dict[str, Any]) -> None:
        with self.lines.open("a") as file:
            file.write(json.dumps(line) + "\n")


def main(name: str, work: Path, dry: bool, log: Path, turn: Any) -> None:
    """The whole life of a phase's process."""
    os.setsid()
    folder = work / name
    folder.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    module = importlib.import_module(f"tests.bench.gpu.phases.{name}")
    turn.wait()
    here = Phase(name, work, dry)
    print(f"--- {name}", flush=True)
    if not dry:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        module.run(here)
    except Exception as error:  # noqa: BLE001  whatever it is, it is what was found
        traceback.print_exc()
        here.hold(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", False)
