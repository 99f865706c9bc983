"""slurm/devcluster on a root and port of its own, beside whatever cluster is up already."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import REPO, until

PROGRAMS = ("slurmctld", "slurmd", "munged", "slurmdbd", "mariadbd")
OTHER = "nobody"  # a Unix user that is not root and is everywhere

pytestmark = [
    pytest.mark.together("slurm"),  # heavy: one cluster after the other
    pytest.mark.long(50),
    pytest.mark.skipif(
        os.getuid() != 0 or any(shutil.which(name) is None for name in PROGRAMS),
        reason="a dev cluster needs root and the Slurm packages (see .ci/run)",
    ),
]


@dataclass(frozen=True)
class Cluster:
    """A dev cluster's folder and first port."""

    root: Path
    port: int

    @property
    def conf(self) -> Path:
        return self.root / "etc" / "slurm.conf"

    def call(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        """Runs slurm/devcluster for this cluster."""
        env = os.environ | {
            "AEVO_DEVCLUSTER_ROOT": str(self.root),
            "AEVO_DEVCLUSTER_PORT": str(self.port),
            "AEVO_DEVCLUSTER_USERS": OTHER,
        }
        return subprocess.run(
            [str(REPO / "slurm/devcluster"), *argv],
            text=True,
            timeout=120,
            capture_output=True,
            env=env,
        )

    def up(self, *options: str) -> None:
        done = self.call("up", *options)
        assert done.returncode == 0, done.stderr

    def slurm(self, *argv: str) -> str:
        """What a Slurm command prints."""
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=200,
            cwd=self.root,
            env=os.environ | {"SLURM_CONF": str(self.conf)},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def pid(self, name: str) -> int:
        return int((self.root / "run" / f"{name}.pid").read_text())

    def pids(self) -> dict[str, int]:
        return {file.stem: self.pid(file.stem) for file in (self.root / "run").glob("*.pid")}

    def processes(self) -> list[int]:
        """Everything that was started with this cluster's slurm.conf: daemons, steps, jobs."""
        mark, found = f"SLURM_CONF={self.conf}".encode(), []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def kill(self, name: str) -> None:
        """As `kill -9` of one of its daemons, waited for."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        until(lambda: pid not in self.processes())


def free_ports() -> int:
    """The first of 20 ports that nobody listens at."""
    for first in range(18000 + os.getpid() % 300 * 20, 32000, 20):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + 20):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free ports")


@contextlib.contextmanager
def throw_away() -> Iterator[Cluster]:
    """A cluster that is down, whose processes and traces do not outlive the test."""
    # short: paths of Unix sockets end at 107 characters
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="aevo-dc-", dir="/var/tmp")), free_ports())
    cluster.root.chmod(0o755)
    try:
        yield cluster
    finally:
        done = cluster.call("down", "--wipe")
        left = cluster.processes()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(cluster.root, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    assert not left, "down left processes"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with throw_away() as made:
        made.up()
        yield made


def hosts() -> list[str]:
    return Path("/etc/hosts").read_text().splitlines()


def etc(cluster: Cluster) -> tuple[list[str], list[str]]:
    """What the cluster has outside its folder: lines of /etc/hosts, links of /etc/slurm."""
    mark = str(cluster.root)
    lines = [line for line in hosts() if mark in line]
    links = [path for path in Path("/etc/slurm").glob("*.conf") if path.is_symlink()]
    return lines, [path.name for path in links if mark in str(path.readlink())]


def test_up_again_starts_nothing(cluster: Cluster) -> None:
    before = cluster.pids()
    assert len(before) == 10, before
    cluster.up()
    assert cluster.pids() == before


def test_six_nodes_and_three_partitions(cluster: Cluster) -> None:
    nodes = cluster.slurm("sinfo", "--noheader", "--Node", "--format=%N %P %G").splitlines()
    assert len({line.split()[0] for line in nodes}) == 6
    assert {line.split()[1] for line in nodes} == {"cpu*", "h200", "h200-preempt"}
    assert "h200-3 h200 gpu:h200:8" in nodes


def test_a_job_sees_its_gpus_and_is_accounted_for(cluster: Cluster) -> None:
    job = cluster.slurm(
        "sbatch",
        "--parsable",
        "--wait",
        "--partition=h200",
        "--gres=gpu:2",
        "--output=gpus.txt",
        "--wrap",
        "echo $CUDA_VISIBLE_DEVICES",
    )
    assert (cluster.root / "gpus.txt").read_text() == "0,1\n"

    def row() -> str:
        return cluster.slurm("sacct", "-nPX", "-j", job, "-o", "State,ReqTRES")

    # the state is there before the resources are
    until(lambda: row().startswith("COMPLETED|") and "gres/gpu=2" in row())


def test_another_user_may_submit(cluster: Cluster) -> None:
    user = pwd.getpwnam(OTHER)
    done = subprocess.run(
        [
            "setpriv",
            f"--reuid={user.pw_uid}",
            f"--regid={user.pw_gid}",
            "--clear-groups",
            "srun",
            "--quiet",
            "id",
            "-un",
        ],
        capture_output=True,
        text=True,
        timeout=200,
        cwd="/tmp",
        env=os.environ | {"SLURM_CONF": str(cluster.conf)},
    )
    assert done.stdout.split() == [OTHER], done.stderr


def test_up_heals_what_was_killed_and_keeps_jobs(cluster: Cluster) -> None:
    job = cluster.slurm("sbatch", "--parsable", "--output=/dev/null", "--wrap", "sleep 100")

    def state() -> str:
        return cluster.slurm("squeue", "--noheader", "--format=%T", "--job", job)

    until(lambda: state() == "RUNNING")
    # what slurmctld has not yet saved it forgets, and it saves only after a change
    running = time.time()
    cluster.slurm("scontrol", "update", f"job={job}", "comment=save")
    until(lambda: (cluster.root / "state/job_state").stat().st_mtime > running)
    kept = cluster.pid("munged")
    for name in ("slurmctld", "slurmdbd", "slurmd.cpu-0"):
        cluster.kill(name)
    cluster.up()
    assert cluster.pid("munged") == kept
    assert state() == "RUNNING"
    cluster.slurm("scancel", job)


def test_up_refuses_to_change_a_cluster_that_runs(cluster: Cluster) -> None:
    before = cluster.conf.read_text()
    done = cluster.call("up", "--no-accounting")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "runs with accounting" in done.stderr and cluster.conf.read_text() == before


@pytest.mark.parametrize("words", [("up", "--wipe"), ("down", "--all"), ("down", "--wipe", "x")])
def test_unknown_options_are_named(cluster: Cluster, words: tuple[str, ...]) -> None:
    done = cluster.call(*words)
    assert done.returncode == 1 and done.stderr.startswith("error: the only option here is")


def test_down_ends_all_of_ours_and_nothing_else() -> None:
    """Also where slurmctld cannot help, and a pid file names a process that is not ours."""
    others = [line for line in hosts() if "aevo-d" not in line]  # no cluster's
    with throw_away() as cluster, subprocess.Popen(["sleep", "100"]) as stranger:
        try:
            cluster.up("--no-accounting")
            assert etc(cluster)[0] != [], "node names do not resolve"
            job = cluster.slurm(
                "sbatch", "--parsable", "--output=job.txt", "--wrap", "echo begun; sleep 100"
            )
            begun = cluster.root / "job.txt"
            until(lambda: begun.exists() and begun.read_text() == "begun\n")
            assert job and len(cluster.processes()) > 8
            for name in ("slurmctld", "slurmd.cpu-0"):
                cluster.kill(name)
            (cluster.root / "run/slurmd.cpu-0.pid").write_text(f"{stranger.pid}\n")
            (cluster.root / "mine.txt").write_text("not of the cluster's making")
            done = cluster.call("down", "--wipe")
            assert done.returncode == 0, done.stderr
            assert stranger.poll() is None, "down killed a process that is not the cluster's"
            assert cluster.processes() == []
            assert etc(cluster) == ([], [])
            assert set(others) <= set(hosts())
            assert {path.name for path in cluster.root.iterdir()} == {"job.txt", "mine.txt"}
        finally:
            stranger.kill()
