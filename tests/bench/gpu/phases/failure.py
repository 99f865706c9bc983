"""Phase 9: a training that runs out of memory says so in a line that aevo recognises."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch
from train import peft_backend  # noqa: F401  imported before memory is short
from train.sft import main

from aevo.jobs.autopsy import cause
from tests.bench.gpu import models
from tests.bench.gpu.phase import Phase

SHARE = 0.02  # of the GPU
ROOM = 256 << 20  # bytes of address space, on CPU


def run(here: Phase) -> None:
    """A run with less memory than it takes."""
    base = models.tiny(here) if here.dry else models.wide(here, models.SHORT)
    settings = models.recipe(2, 2048)
    train, recipe = models.data(here, settings)
    words = ["--recipe", recipe, "--data", train, "--base", base, "--seed", "7",
             "--out", here.folder / "out"]  # fmt: skip
    log = here.folder / "stderr"
    short = here.start(_short, here.dry, [str(word) for word in words], log)
    short.join()
    text = log.read_text()
    print(text[-2000:], flush=True)
    here.hold("it fails", short.exitcode not in (0, None), short.exitcode)
    said = cause("", [text])
    here.hold("one line says that memory is short", "memory" in said, said or "nothing")


def _short(dry: bool, words: list[str], log: Path) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
    if dry:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    else:
        torch.cuda.set_per_process_memory_fraction(SHARE)
    sys.exit(main(words))
