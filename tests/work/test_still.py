"""An agent's processes stand still while its fork is read and written for it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aevo.sandbox.supervise import tree
from aevo.substrate.frozen import open_substrate
from aevo.work.cli import still
from aevo.work.cli.still import RestlessError, Stillness
from tests.attacks.test_reading import call
from tests.conftest import REGRESSION, until

# Processes that come and go, each of which puts a link where a folder was, and takes it away.
SWAP = """
import os, sys, time
os.fork()
while True:
    if os.fork() == 0:
        for step in (lambda: os.rename("data", f"kept{os.getpid()}"),
                     lambda: os.symlink(sys.argv[1], "data"), lambda: os.unlink("data"),
                     lambda: os.rename(f"kept{os.getpid()}", "data")):
            try: step()
            except OSError: pass
        os._exit(0)
    os.wait()
"""


@pytest.fixture
def fork(tmp_path: Path) -> Path:
    open_substrate(REGRESSION).fork(tmp_path / "fork", [])
    (tmp_path / "vault").mkdir()
    (tmp_path / "vault" / "dev.jsonl").write_text("the answer")
    return tmp_path / "fork"


@pytest.fixture
def held(fork: Path) -> Iterator[Stillness]:
    """Stillness over a process that stands for the sandbox's supervisor."""
    swap = [sys.executable, "-S", "-c", SWAP, str(fork.parent / "vault")]
    supervisor = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", supervisor, *swap], cwd=fork, start_new_session=True
    ) as process:
        until(lambda: len(tree(process.pid)) > 2, 30)
        found = Stillness()
        found.root = process.pid
        yield found
        os.killpg(process.pid, signal.SIGKILL)


def ticks(held: Stillness) -> int:
    """Processor time of all that lives below, and has lived."""
    assert held.root is not None
    total = 0
    for pid in tree(held.root)[1:]:
        with contextlib.suppress(OSError):  # it has ended since
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
    return total


@pytest.mark.long(3)
def test_nothing_runs_meanwhile_and_all_goes_on(held: Stillness) -> None:
    for _ in range(3):
        with held():
            before = ticks(held)
            with held():  # another thread's call
                time.sleep(0.1)
            assert ticks(held) == before
        until(lambda before=before: ticks(held) > before, 20)  # type: ignore[misc]


@pytest.mark.long(5)
def test_a_folder_that_turns_into_a_link_is_no_way_out(held: Stillness, fork: Path) -> None:
    for _ in range(20):
        with held():
            read = call(fork, "read_file", path="data/dev.jsonl")
            call(fork, "write_file", path="data/planted", content="x")
        assert "the answer" not in read
    assert not (fork.parent / "vault" / "planted").exists()


def test_what_does_not_come_to_rest_is_refused(
    held: Stillness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(still, "WAIT_S", 0.2)
    monkeypatch.setattr(still, "_rests", lambda pid: False)
    with pytest.raises(RestlessError), held():
        raise AssertionError("nothing runs in it")
    assert held._held == {}


def test_without_a_session_nobody_is_held(fork: Path) -> None:
    with Stillness()():
        assert "error" not in call(fork, "read_file", path="recipe.yaml")
