"""Two users, the same campaign name, one cluster: neither sees or disturbs the other's jobs."""

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aevo.files.paths import Layout
from aevo.jobs.state import observe
from aevo.plan.cancel import job_folders
from tests.conftest import REGRESSION, REPO, Cli
from tests.slurm.conftest import QUICK, Slurm
from tests.support.outcome import outcome

pytestmark = [pytest.mark.together("slurm"), pytest.mark.long(30)]

USER = "aevo-test-user"
SYSTEM_PYTHON = Path(f"/usr/bin/python3.{sys.version_info[1]}")


@pytest.fixture
def other(slurm: Slurm) -> Iterator[Path]:
    """A folder of another user's, with a Python environment that this user may run."""
    if not SYSTEM_PYTHON.exists() or not readable(REPO) or not readable(Path(np.__file__).parent):
        pytest.skip(f"another user cannot run {SYSTEM_PYTHON} or read {REPO}")
    slurm.run(["sacctmgr", "-i", "delete", "user", USER])  # it remembers the uid of a former one
    subprocess.run(["useradd", "--no-create-home", USER], check=False, capture_output=True)
    account = pwd.getpwnam(USER)
    slurm.run(["sacctmgr", "-i", "add", "user", USER, "account=aevo", "DefaultAccount=aevo"])
    with tempfile.TemporaryDirectory(prefix="aevo-user-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        made = subprocess.run(
            [SYSTEM_PYTHON, "-m", "venv", "--without-pip", folder / "venv"],
            capture_output=True,
            text=True,
        )
        assert made.returncode == 0, made.stderr
        packages = next((folder / "venv/lib").glob("python*/site-packages"))
        ours = [path for path in sys.path if path.endswith("site-packages")]
        (packages / "ours.pth").write_text("\n".join([*ours, str(REPO)]) + "\n")
        os.chown(folder, account.pw_uid, account.pw_gid)
        yield folder
        subprocess.run(["pkill", "-KILL", "-u", USER], check=False)
    slurm.run(["sacctmgr", "-i", "delete", "user", USER])
    subprocess.run(["userdel", USER], check=False, capture_output=True)


def readable(path: Path) -> bool:
    """True if every folder on the way may be entered by anybody."""
    return all(parent.stat().st_mode & 0o005 == 0o005 for parent in [path, *path.parents])


def test_two_users_campaigns_side_by_side(slurm: Slurm, slurm_cli: Cli, other: Path) -> None:
    ours = slurm_cli.start("round", "+round=1", n=2)
    theirs = subprocess.run(
        [
            "setpriv",
            f"--reuid={USER}",
            f"--regid={USER}",
            "--clear-groups",
            "--reset-env",
            "env",
            f"SLURM_CONF={slurm.conf}",
            f"HOME={other}",
            str(other / "venv/bin/python"),
            "-m",
            "aevo.round",
            "--config-dir",
            str(REPO / "tests/conf"),
            "model=regression",
            f"substrate={REGRESSION}",
            f"runs={other / 'runs'}",
            "worker.n=2",
            *QUICK,
            "+round=1",
        ],
        capture_output=True,
        text=True,
        cwd=other,
        timeout=200,
    )
    out, error = ours.communicate(timeout=200)
    assert ours.returncode == 0, out + error
    assert theirs.returncode == 0, theirs.stdout + theirs.stderr
    layout = Layout(other / "runs" / "regression-seed1")
    assert outcome(layout, 1) == outcome(slurm_cli.layout(), 1)
    assert owners(slurm, layout) == {USER}
    assert owners(slurm, slurm_cli.layout()) == {"root"}


def owners(slurm: Slurm, layout: Layout) -> set[str]:
    """Whom Slurm names as the users of a campaign's jobs."""
    rows = slurm.run(["squeue", "--noheader", "--states=all", "--format=%i %u"]).stdout
    users = dict(row.split() for row in rows.splitlines())
    return {
        users[found] for job in job_folders(layout) if (found := observe(job).job_id) is not None
    }
