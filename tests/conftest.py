"""Shared arrangement: commands run as users run them, on the regression substrate."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aevo.files.paths import Layout
from aevo.plan.cancel import cancel_all
from aevo.sandbox import probe
from aevo.substrate.frozen import open_substrate
from tests.parallel import (
    made_once,
    pytest_collection_modifyitems,
    pytest_configure_node,
    pytest_ignore_collect,
    pytest_terminal_summary,
    pytest_xdist_make_scheduler,
)

__all__ = [
    "pytest_collection_modifyitems",
    "pytest_configure_node",
    "pytest_ignore_collect",
    "pytest_terminal_summary",
    "pytest_xdist_make_scheduler",
]  # hooks

REPO = Path(__file__).parents[1]
REGRESSION = REPO / "tests" / "substrates" / "regression"

# Where nothing can confine a command, the sandbox's own tests are skipped and the others go on.
SANDBOX = ("sandbox=none",) if probe() == "none" else ()


@dataclass
class Cli:
    """Runs aevo's entry points in a folder of their own, with slots of their own."""

    folder: Path
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def layout(self, name: str = "regression-seed1") -> Layout:
        return Layout(self.runs / name)

    @property
    def substrate(self) -> Path:
        """The regression substrate, or this folder's own copy of it."""
        own = self.folder / "substrate"
        return own if own.exists() else REGRESSION

    def reset(self, number: int, candidate: str) -> None:
        """A planned candidate back to the state before its worker."""
        files = self.layout().round(number)
        here = files.candidate(candidate)
        for folder in (here.root, *files.jobs.glob(f"{candidate}-*")):
            shutil.rmtree(folder)
        open_substrate(self.layout().substrate).fork(here.fork, [], source=files.standing)

    def argv(self, module: str, *overrides: str, n: int = 3) -> list[str]:
        """Command line of a Hydra entry point on the regression substrate."""
        return [
            sys.executable,
            "-m",
            f"aevo.{module}",
            "--config-dir",
            str(REPO / "tests" / "conf"),
            "model=regression",
            f"substrate={self.substrate}",
            f"runs={self.runs}",
            f"cluster.slot_folder={self.folder / 'slots'}",
            f"worker.n={n}",
            *SANDBOX,
            *overrides,
        ]

    def run(
        self, module: str, *overrides: str, n: int = 3, timeout_s: float = 300
    ) -> "subprocess.CompletedProcess[str]":
        """Runs such a command to its end."""
        return subprocess.run(
            self.argv(module, *overrides, n=n),
            capture_output=True,
            text=True,
            cwd=self.folder,
            timeout=timeout_s,
        )

    def start(self, module: str, *overrides: str, n: int = 3) -> "subprocess.Popen[str]":
        """Starts such a command; it is killed at the end of the test if it still runs."""
        process = subprocess.Popen(
            self.argv(module, *overrides, n=n),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            start_new_session=True,
            preexec_fn=_interruptible,
        )
        self.started.append(process)
        return process

    def plain(self, module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Runs an entry point that takes plain arguments."""
        return subprocess.run(
            [sys.executable, "-m", f"aevo.{module}", *arguments],
            text=True,
            capture_output=True,
            cwd=self.folder,
            timeout=300,
        )


def _interruptible() -> None:
    """In a child: Ctrl-C as on a terminal, also where the tests run in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """A command line whose processes do not outlive the test."""
    commands = Cli(tmp_path)
    yield commands
    for process in commands.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    for campaign in commands.runs.glob("*/"):
        cancel_all(Layout(campaign))


SLOW = "+model.recipe.train.step_seconds=0.03"  # 60 steps, 1.8 s: time to be killed in


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A campaign of two slow rounds of three candidates. Not to be written to."""

    def make(folder: Path) -> None:
        done = Cli(folder).run("campaign", "rounds=2", SLOW, n=3)
        assert done.returncode == 0, done.stderr

    return Cli(made_once(tmp_path_factory, "undisturbed", make)).layout()


def until(condition: Callable[[], bool], deadline_s: float = 180.0) -> None:
    """Waits for an event that another process brings about; fails at the deadline, which is far
    off: a busy machine is no fault."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the awaited event did not happen"
        time.sleep(0.02)


@pytest.fixture
def claims_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is only likely enters the working recipe."""
    monkeypatch.setattr("aevo.policy.promotion._build_upon", lambda *_: [])
