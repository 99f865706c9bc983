"""What the tests of trainer=megatron share. Needs megatron-core."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from train.mcore import backend, export, layout, lora, model, weights
from train.mcore.lora import Adapted
from train.peft_format import peft_config
from train.run import Run

REPO = Path(__file__).parents[2]
SUBSTRATE = REPO / "substrate" / "default"
RANKS = REPO / "aevo" / "jobs" / "ranks.py"
LORA: dict[str, Any] = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": "all"}
# Everything that may carry an adapter, in groups of different ranks
WIDE = LORA | {
    "targets": ["all", "out_proj", "experts", "lm_head"],
    "ranks": {"experts": 2, "lm_head": 6},
}


Recipe = dict[str, Any]


def run_here(
    recipe: Recipe, data: Path, base: Path, out: Path, sizes: layout.Layout | None = None
) -> dict[str, Any]:
    """A whole run in this process, or this rank's part of it; seed 7."""
    run = Run(recipe, data, base, out, seed=7, threads=1)
    return backend.execute(run, sizes or layout.Layout(), torch.device("cpu"))


def losses(out: Path) -> list[float]:
    """Of every step of a run."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def command(recipe: Path, data: Path, base: Path, out: Path, *more: str) -> list[str]:
    """Arguments of python for such a run in a process of its own."""
    return [
        "-m",
        "train.megatron",
        "--recipe",
        str(recipe),
        "--data",
        str(data),
        "--base",
        str(base),
        "--seed",
        "7",
        "--out",
        str(out),
        *more,
    ]


@pytest.fixture(scope="module")
def one_rank() -> Iterator[torch.device]:
    """megatron's process groups with this process as the only rank."""
    yield layout.start(layout.Layout())
    layout.stop()


def built(base: Path, precision: str = "fp32") -> tuple[Any, Any]:
    """(model, configuration) of a checkpoint, in this process, ready to answer."""
    config = model.read_config(base)
    network = model.build(config, layout.Layout(precision=precision))
    weights.load(network, config, base)
    return network.eval(), config


def adapted(
    base: Path, targets: Any = "all", settings: dict[str, Any] | None = None
) -> tuple[Any, Any, list[Adapted]]:
    """The same with an adapter that does something: B is drawn, too."""
    network, config = built(base)
    found = lora.inject(network, config, settings or LORA | {"targets": targets}, seed=3)
    randomise(found)
    return network, config, found


def randomise(found: list[Adapted], seed: int = 0) -> None:
    """Values for every B, which training starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for item in found:
            item.layer.lora_b.normal_(0, 0.1, generator=generator)


def save_peft(
    folder: Path, found: list[Adapted], config: Any, settings: dict[str, Any] | None = None
) -> Path:
    """The adapter as a folder in peft's format."""
    from train.checkpoint import write_adapter

    tensors = export.gather(found, config)
    write_adapter(tensors, peft_config(settings or LORA, tensors), folder)
    return folder


def tokens(rows: int = 3, length: int = 70) -> torch.Tensor:
    """Random ids, longer than a chunk of the Mamba scan."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, 1505, (rows, length), generator=generator)


def start_ranks(count: int, *arguments: str) -> subprocess.Popen[str]:
    """Starts ranks as aevo does on one machine (they die with it); its output is theirs."""
    starter = [sys.executable, "-I", str(RANKS), str(count), "0", "1", "127.0.0.1", "0"]
    return subprocess.Popen(
        [*starter, sys.executable, *arguments],
        cwd=SUBSTRATE,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=environment(),
    )


def environment() -> dict[str, str]:
    """For processes that tests start: the substrate, one thread."""
    return os.environ | {
        "PYTHONPATH": str(SUBSTRATE),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
