"""A real Slurm for the tests: the project's own dev cluster, or one that is named.

AEVO_TEST_SLURM_CONF=/path/slurm.conf pytest tests/slurm     uses a dev cluster that is up
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from aevo.files.paths import Layout
from aevo.plan.cancel import cancel_all
from aevo.start.command import CONF
from tests.conftest import REPO, Cli

DEVCLUSTER = REPO / "slurm" / "devcluster"
QUICK = ("cluster=devcluster", "cluster.poll_s=0.5", "cluster.settle_s=2")


@dataclass(frozen=True)
class Slurm:
    """A dev cluster that is up; `conf` is its slurm.conf."""

    conf: str

    @property
    def root(self) -> Path:
        """The cluster's state: run/ holds its daemons' pid files."""
        return Path(self.conf).parents[1]

    @property
    def settings(self) -> dict[str, Any]:
        """conf/cluster/devcluster as plain values, quick as in the tests."""
        merged: dict[str, Any] = yaml.safe_load((CONF / "cluster/slurm.yaml").read_text())
        own = yaml.safe_load((CONF / "cluster/devcluster.yaml").read_text())
        own.pop("defaults")
        for key, value in own.items():
            merged[key] = merged[key] | value if isinstance(value, dict) else value
        return merged | {"poll_s": 0.5, "settle_s": 2.0}

    def env(self) -> dict[str, str]:
        """An environment in which Slurm's commands find the cluster."""
        return os.environ | {"SLURM_CONF": self.conf}

    def run(self, argv: list[str]) -> "subprocess.CompletedProcess[str]":
        """Runs a command against the cluster."""
        return subprocess.run(argv, capture_output=True, text=True, env=self.env(), timeout=120)

    def pid(self, daemon: str) -> int:
        """The pid of `slurmctld` or `slurmd.NODE`."""
        return int((self.root / "run" / f"{daemon}.pid").read_text())

    def heal(self) -> None:
        """Restarts whatever of the cluster is dead."""
        command = os.environ.get("AEVO_TEST_SLURM_HEAL", f"{DEVCLUSTER} up")
        done = self.run(["bash", "-c", command])
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """The cluster; tests are skipped where there can be none."""
    conf = os.environ.get("AEVO_TEST_SLURM_CONF")
    if conf is None:
        if os.getuid() != 0 or shutil.which("slurmctld") is None:
            pytest.skip("a dev cluster needs root and the Slurm packages (see .ci/run)")
        done = subprocess.run([DEVCLUSTER, "up"], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        shown = subprocess.run([DEVCLUSTER, "env"], capture_output=True, text=True, timeout=30)
        conf = shown.stdout.split("SLURM_CONF=", 1)[1].split()[0].strip("'\"")
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = conf
    yield Slurm(conf)
    os.environ.pop("SLURM_CONF", None)
    if before is not None:
        os.environ["SLURM_CONF"] = before


class SlurmCli(Cli):
    """The command line with the dev cluster chosen."""

    def argv(self, module: str, *overrides: str, n: int = 3) -> list[str]:
        words = super().argv(module, *overrides, n=n)
        plain = [word for word in words if not word.startswith("cluster.slot_folder=")]
        return [*plain[: len(plain) - len(overrides)], *QUICK, *overrides]


@pytest.fixture
def slurm_cli(slurm: Slurm, tmp_path: Path) -> Iterator[Cli]:
    """A command line whose jobs do not outlive the test."""
    commands = SlurmCli(tmp_path)
    yield commands
    for process in commands.started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    for campaign in commands.runs.glob("*/"):
        cancel_all(Layout(campaign))
