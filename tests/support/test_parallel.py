"""How tests are spread over processes, in a run of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

MODULE = """
import os, pathlib, pytest
{mark}
@pytest.mark.parametrize("n", range(4))
def test_it(n):
    with open({place!r}, "a") as file:
        file.write("{name} " + os.environ["PYTEST_XDIST_WORKER"] + "\\n")
"""


@pytest.mark.long(9)
def test_groups_and_modules_stay_in_one_process_and_the_longest_begins(tmp_path: Path) -> None:
    hooks = (REPO / "tests" / "parallel.py").read_text()
    (tmp_path / "conftest.py").write_text(hooks)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    together\n    long\n")
    marks = {
        "a": "long(1)",
        "b": "long(2)",
        "c": "long(3)",
        "d": "together('x')",
        "e": "together('x')",
    }
    for name, mark in marks.items():
        (tmp_path / f"test_{name}.py").write_text(
            MODULE.format(
                mark=f"pytestmark = [pytest.mark.{mark}, pytest.mark.long(1)]",
                name=name,
                place=str(tmp_path / "ran"),
            )
        )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadscope", "--strict-markers"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ran = [line.split() for line in (tmp_path / "ran").read_text().splitlines()]
    assert len(ran) == 20
    processes = {name: {worker for ran_name, worker in ran if ran_name == name} for name in marks}
    assert all(len(found) == 1 for found in processes.values()), processes
    assert processes["d"] == processes["e"]
    assert processes["b"] != processes["c"], "the two longest begin side by side"


@pytest.mark.long(2)
def test_reasons_of_what_was_skipped_are_counted(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((REPO / "tests" / "parallel.py").read_text())
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.parametrize('n', range(3))\n"
        "def test_it(n): pytest.skip('no such machine')\n"
    )
    (tmp_path / "test_all.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    for processes in ("0", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-n", processes, "--dist", "loadscope"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert "skipped: 4\n  3 no such machine\n  1 could not import" in done.stdout, done.stdout
