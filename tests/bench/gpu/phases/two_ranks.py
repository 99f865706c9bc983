"""Phase 8: two ranks on one GPU compute what one does, and share the memory of their node."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from train import loop
from train.mcore import backend, layout
from train.run import Run

from tests.bench.gpu import models
from tests.bench.gpu.phase import Phase

SAME = 1e-4
STEPS = 3


def run(here: Phase) -> None:
    """tensor=2 with sequence shards, and expert=2."""
    loop.prepare_torch(1)
    base, settings = models.tiny(here), models.recipe(STEPS, 8)
    run_ = models.a_run(here, base, settings)
    # Not in this process, of which the ranks may be forks: gloo's threads do not outlive that.
    one = here.start(_alone, run_, here.device)
    one.join()
    alone = models.losses(run_.out)
    plan = [{"tensor": 2}, {"expert": 2}]
    out = here.folder / "ranks"
    out.mkdir()
    port = str(20000 + os.getpid() % 20000)
    ranks = [here.start(_rank, rank, port, run_, plan, here.device.type) for rank in range(2)]
    for rank in ranks:
        rank.join()
    here.hold("both ranks end", [rank.exitcode for rank in ranks] == [0, 0])
    for number, sizes in enumerate(plan):
        found = models.losses(out / str(number))
        worst = max(abs(a - b) for a, b in zip(alone, found, strict=True))
        here.below(f"{sizes}: losses, two ranks and one", worst, SAME)
    shared = [(out / f"shm-{rank}").read_text() for rank in range(2)]
    here.hold("both have one /dev/shm", shared[0] == shared[1], shared)


def _rank(rank: int, port: str, run_: Run, plan: list[dict[str, int]], device: str) -> None:
    """One of the two; both use the one GPU, so collectives go by gloo."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2",
                   "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                   "GLOO_SOCKET_IFNAME": "lo"}  # fmt: skip
    out = run_.out.parent / "ranks"
    (out / f"shm-{rank}").write_text(str(Path("/dev/shm").stat().st_dev))
    backends = "cpu:gloo,cuda:gloo" if device == "cuda" else "gloo"
    dist.init_process_group(backends, timeout=timedelta(seconds=60))
    for number, sizes in enumerate(plan):
        own = layout.Layout(**sizes)
        on = layout.start(own)  # the group that exists is used as it is
        backend.execute(replace(run_, out=out / str(number)), own, on)
        parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def _alone(run_: Run, device: torch.device) -> None:
    with models.alone():
        backend.execute(run_, layout.Layout(), device)
