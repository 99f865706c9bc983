"""Command lines: how they end where nobody reads on."""

import subprocess
import sys

import pytest

from tests.conftest import REPO


@pytest.mark.long(3)
@pytest.mark.parametrize("command", ["aevo.scale", "aevo.campaign --help"])
def test_output_that_nobody_reads_ends_quietly(command: str) -> None:
    words = [sys.executable, "-m", *command.split()]
    with subprocess.Popen(
        words, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (141, "")
