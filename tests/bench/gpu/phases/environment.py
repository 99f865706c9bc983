"""Phase 0: what this machine is, and whether a GPU and a sandbox are there."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess

import torch

from aevo import sandbox
from aevo.sandbox.inside import abi
from tests.bench.gpu import models
from tests.bench.gpu.phase import Phase

PACKAGES = ("transformers", "peft", "megatron-core", "safetensors", "triton", "mamba-ssm",
            "causal-conv1d", "vllm")  # fmt: skip


def run(here: Phase) -> None:
    """Facts, and the least that everything else needs."""
    here.note(
        card=models.card(here), driver=_driver(), torch=torch.__version__, cuda=torch.version.cuda,
        cores=os.cpu_count(), kernel=platform.release(), root=os.geteuid() == 0,
        user_namespaces=_works(["unshare", "-Ur", "true"]), bwrap=shutil.which("bwrap"),
        landlock_abi=abi(), packages={name: _version(name) for name in PACKAGES},
    )  # fmt: skip
    one = torch.full((256, 256), 0.5, device=here.device)
    here.below("a product of matrices", float(((one @ one) - 64.0).abs().max()), 0.0)
    why = "; ".join(f"{kind}: {sandbox.failure(kind)}" for kind in ("bubblewrap", "landlock"))
    here.note(sandbox=sandbox.probe(), sandbox_why=why)
    here.hold("something confines worker-written code", sandbox.probe() != "none", sandbox.probe())


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _driver() -> str | None:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
