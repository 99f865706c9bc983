"""A real Slurm for the tests: the project's own dev cluster, or one that is named.

AEVO_TEST_SLURM_CONF=/path/slurm.conf pytest tests/slurm     uses a dev cluster that is up
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock, Timeout

from aevo.files.paths import Layout
from aevo.plan.cancel import cancel_all
from aevo.start.command import CONF
from tests.conftest import REPO, Cli

DEVCLUSTER = REPO / "slurm" / "devcluster"
PLACES = 8
QUICK = ("cluster=devcluster", "cluster.poll_s=0.5", "cluster.settle_s=2")


@dataclass(frozen=True)
class Slurm:
    """A dev cluster that is up; `conf` is its slurm.conf, `own` the variables of slurm/devcluster
    that name it."""

    conf: str
    own: dict[str, str] = field(default_factory=dict)

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
        return os.environ | self.own | {"SLURM_CONF": self.conf}

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

    def daemons(self, pattern: str) -> list[int]:
        """Processes of this cluster, and of no other, whose command line has that pattern."""
        found = map(int, self.run(["pgrep", "-f", pattern]).stdout.split())
        mark = f"SLURM_CONF={self.conf}".encode()
        return [pid for pid in found if mark in environment(pid).split(b"\0")]


def environment(pid: int) -> bytes:
    """Of a process, as the kernel gives it; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


@contextlib.contextmanager
def place() -> Iterator[dict[str, str]]:
    """Which dev cluster is this process's while it runs."""
    for number in range(PLACES):
        suffix = f"-{number}" if number else ""
        root = f"/var/tmp/aevo-devcluster{suffix}"
        with contextlib.suppress(Timeout), FileLock(f"{root}.tests.lock", timeout=0):
            port = str(17500 + 40 * number)
            yield {"AEVO_DEVCLUSTER_ROOT": root, "AEVO_DEVCLUSTER_PORT": port}
            return
    raise AssertionError(f"all {PLACES} dev clusters are other processes' of tests")


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """The cluster; tests are skipped where there can be none."""
    conf = os.environ.get("AEVO_TEST_SLURM_CONF")
    with contextlib.ExitStack() as stack:
        if conf is not None:
            found = Slurm(conf)
        elif os.getuid() != 0 or shutil.which("slurmctld") is None:
            pytest.skip("a dev cluster needs root and the Slurm packages (see .ci/run)")
        else:
            own = stack.enter_context(place())
            found = Slurm(f"{own['AEVO_DEVCLUSTER_ROOT']}/etc/slurm.conf", own)
            found.heal()
            if own["AEVO_DEVCLUSTER_PORT"] != "17500":
                stack.callback(found.run, [str(DEVCLUSTER), "down", "--wipe"])
        before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = found.conf
        yield found
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
