"""One sandbox a node, its ranks in it: on this machine, and on two "nodes" that are namespaces."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aevo import sandbox
from aevo.config.cluster import LocalCluster
from aevo.errors import JobError
from aevo.files.documents import write_json
from aevo.jobs.folder import JobFolder
from aevo.jobs.launch import NODE, argv
from aevo.jobs.submit import wait
from aevo.records.job import Confinement, JobSpec, Queue, Resources, Step
from tests.conftest import until
from tests.jobs.test_jobs import cluster

__all__ = ["cluster"]

pytestmark = pytest.mark.long(40)

# Two or four ranks add up what each of them is, and say what they see around them.
PROGRAM = """
import json, os, pathlib, socket, sys
import torch, torch.distributed as dist
out, rank = pathlib.Path(sys.argv[1]), os.environ["RANK"]
dist.init_process_group("gloo")
value = torch.tensor([10.0 ** dist.get_rank()])
dist.all_reduce(value)
pathlib.Path("/dev/shm/from-" + rank).write_text(rank)
pathlib.Path(os.environ["TMPDIR"], "mine-" + rank).write_text(rank)
dist.barrier()
found = {"sum": value.item(), "host": socket.gethostname(), "scratch": os.environ["TMPDIR"],
         "shm": sorted(os.listdir("/dev/shm")), "device": os.stat("/dev/shm").st_dev,
         "tmp": sorted(os.listdir(os.environ["TMPDIR"])), "local": os.environ["LOCAL_RANK"],
         "slurm": [name for name in os.environ if name.startswith("SLURM_")]}
for name, path in (("secret", sys.argv[2]), ("etc", "/etc/shadow")):
    try:
        found[name] = pathlib.Path(path).read_text() != ""
    except OSError:
        found[name] = False
try:
    socket.create_connection((sys.argv[3], int(sys.argv[4])), 2)
    found["reached"] = True
except OSError:
    found["reached"] = False
(out / f"rank-{rank}.json").write_text(json.dumps(found))
dist.barrier()
if rank == "0":
    (out / "done").write_text("")
dist.destroy_process_group()
"""
FAILS = "import os, sys, time\nif os.environ['RANK'] == '1': sys.exit(7)\ntime.sleep(600)\n"


def ranks_job(folder: Path, program: str, kind: str, nodes: int = 1, port: int = 9) -> JobSpec:
    """Two confined ranks a node; they try to reach `port` of this machine."""
    (folder / "out").mkdir()
    (folder / "program.py").write_text(program)
    (folder / "secret").mkdir()
    (folder / "secret" / "key").write_text("hidden")
    words = [folder / "program.py", folder / "out", folder / "secret" / "key", "127.0.0.1", port]
    return JobSpec(
        name="ranks",
        kind="train",
        campaign="test",
        attempts=1,
        folder=str(folder / "jobs" / "ranks"),
        product=str(folder / "out" / "done"),
        steps=[
            Step(
                argv=[sys.executable, *map(str, words)],
                cwd=str(folder),
                env={"PYTHONPATH": str(folder)},
                distributed=True,
                confine=Confinement(
                    read=[str(folder)], write=[str(folder / "out")], hide=[str(folder / "secret")]
                ),
            )
        ],
        resources=Resources(nodes=nodes, tasks_per_node=2, time_min=5),
        sandbox=kind,  # type: ignore[arg-type]
    )


def found(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((folder / "out").glob("rank-*.json"))]


@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
def test_ranks_of_a_node_share_one_sandbox(
    kind: str, tmp_path: Path, cluster: LocalCluster
) -> None:
    why = sandbox.failure(kind)
    if why:
        pytest.skip(why)
    pytest.importorskip("torch", reason="torch is not installed")
    with socket.create_server(("127.0.0.1", 0)) as server:
        spec = ranks_job(tmp_path, PROGRAM, kind, port=server.getsockname()[1])
        assert wait(spec, cluster).phase == "finished"
    ranks = found(tmp_path)
    assert [rank["sum"] for rank in ranks] == [11.0, 11.0]
    assert [rank["local"] for rank in ranks] == ["0", "1"]
    for rank in ranks:
        assert {"from-0", "from-1"} <= set(rank["shm"]) and rank["tmp"] == ["mine-0", "mine-1"]
        assert not rank["secret"] and not rank["etc"] and not rank["reached"]
    assert ranks[0]["device"] == ranks[1]["device"]


def test_what_a_worker_wrote_stands_in_for_nothing_outside_of_the_sandbox(
    tmp_path: Path, cluster: LocalCluster
) -> None:
    """A module of the fork that is called as one of Python's own."""
    if sandbox.probe() == "none":
        pytest.skip("nothing confines a command here")
    spec = ranks_job(tmp_path, "import subprocess\n", "auto")
    for name in ("subprocess.py", "ctypes.py", "socket.py", "torch.py"):
        where = f"open({str(tmp_path / 'escaped')!r}, 'w').write('outside')\n"
        (tmp_path / name).write_text(f"{where}raise SystemExit('planted')\n")
    with pytest.raises(JobError):
        wait(spec, cluster)
    assert not (tmp_path / "escaped").exists()


def test_one_rank_that_fails_ends_the_others(tmp_path: Path, cluster: LocalCluster) -> None:
    spec = ranks_job(tmp_path, FAILS, "none")
    with pytest.raises(JobError, match="exit code 7"):
        wait(spec, cluster)
    assert JobFolder(Path(spec.folder)).ended(1) is not None


def test_slurm_starts_one_task_a_node_where_ranks_are_confined(tmp_path: Path) -> None:
    spec = ranks_job(tmp_path, PROGRAM, "auto", nodes=2)
    queue = Queue(cache="", poll_s=1, settle_s=1, watch_s=1)
    resources = spec.resources.model_copy(update={"cpus": 3})
    spec = spec.model_copy(update={"queue": queue, "resources": resources})
    command = argv(spec, spec.steps[0])
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=6"} <= set(command)
    assert command[-6:-1] == [sys.executable, "-I", str(NODE), spec.folder, "0"]
    bare = argv(spec.model_copy(update={"sandbox": "none"}), spec.steps[0])
    assert {"--ntasks=4", "--ntasks-per-node=2", "--cpus-per-task=3"} <= set(bare)


STANDS = """
import os, pathlib, sys, time
def waits_for_ever():
    (pathlib.Path(sys.argv[1]) / ("up-" + os.environ["RANK"])).write_text("")
    while True: time.sleep(60)
waits_for_ever()
"""


def test_a_node_that_is_asked_shows_the_stacks_of_its_ranks(tmp_path: Path) -> None:
    """On Slurm ranks are children of slurmd, not of the job that notices the hang."""
    if sandbox.probe() == "none":
        pytest.skip("nothing confines a command here")
    spec = ranks_job(tmp_path, STANDS, "auto")
    spec = spec.model_copy(update={"queue": Queue(cache="", poll_s=1, settle_s=1, watch_s=1)})
    job = JobFolder(Path(spec.folder))
    job.root.mkdir(parents=True)
    write_json(job.spec, spec)
    slurm = {"SLURM_STEP_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_STEP_NODELIST": "node-0"}
    node = subprocess.Popen(
        [sys.executable, "-I", str(NODE), spec.folder, "0", "23456"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | slurm | {"PYTHONFAULTHANDLER": "1"},
    )
    until(lambda: len(list((tmp_path / "out").glob("up-*"))) == 2)
    job.stacks.touch()
    said, _ = node.communicate(timeout=240)
    assert node.returncode != 0
    assert said.count("in waits_for_ever") == 2
    assert ", rank 0:" in said and ", rank 1:" in said


class Nodes:
    """Two "nodes": each with a network namespace, a host name, a /tmp and a /dev/shm of its own,
    and a link between them."""

    def __init__(self, folder: Path) -> None:
        self.folder, tag = folder, os.getpid()
        self.spaces = [f"aevo-{tag}-{node}" for node in range(2)]
        # The whole folder: a file that is mounted over is let go when the one below is replaced.
        # A node's own name stands for its loopback, as on Debian.
        for node in range(2):
            etc = folder / f"etc-{node}"
            shutil.copytree("/etc", etc, symlinks=True, ignore_dangling_symlinks=True)
            names = f"127.0.0.1 localhost\n127.0.1.1 node-{node}\n"
            (etc / "hosts").write_text(f"{names}10.77.0.{2 - node} node-{1 - node}\n")
        links = [f"v{tag}-{node}" for node in range(2)]
        for space in self.spaces:
            ip("netns", "add", space)
        ip("link", "add", links[0], "type", "veth", "peer", "name", links[1])
        for node, (space, link) in enumerate(zip(self.spaces, links, strict=True)):
            ip("link", "set", link, "netns", space)
            ip("-n", space, "addr", "add", f"10.77.0.{node + 1}/24", "dev", link)
            ip("-n", space, "link", "set", link, "up")
            ip("-n", space, "link", "set", "lo", "up")

    def start(self, node: int, spec: JobSpec, port: str) -> "subprocess.Popen[str]":
        """srun's task on that node."""
        own = (
            f"hostname node-{node} && mount -t tmpfs tmpfs /tmp && "
            "mount -t tmpfs tmpfs /dev/shm && "
            f'mount --bind {self.folder}/etc-{node} /etc && exec "$@"'
        )
        command = [sys.executable, "-I", str(NODE), spec.folder, "0", port]
        return subprocess.Popen(
            ["ip", "netns", "exec", self.spaces[node], "unshare", "--mount", "--uts", "--",
             "sh", "-c", own, "sh", *command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={name: value for name, value in os.environ.items() if name[:5] != "GLOO_"} | {
                "SLURM_STEP_NUM_NODES": "2", "SLURM_NODEID": str(node),
                "SLURM_STEP_NODELIST": "node-[0-1]", "OMP_NUM_THREADS": "1",
                "TMPDIR": "/tmp/of-the-first-node-alone",
            },
        )  # fmt: skip

    def remove(self) -> None:
        for space in self.spaces:
            ip("netns", "del", space, check=False)


def ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("needs root, ip and unshare")
    folder = Path(tempfile.mkdtemp(prefix="aevo-nodes-", dir="/var/tmp"))  # on both, as /tmp is not
    made = None
    try:
        made = Nodes(folder)
        yield made
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr!r}")
    finally:
        if made is not None:
            made.remove()
        shutil.rmtree(folder)


def test_confined_ranks_of_two_nodes_meet_over_the_link_between_them(nodes: Nodes) -> None:
    if sandbox.probe() == "none":
        pytest.skip("nothing confines a command here")
    pytest.importorskip("torch", reason="torch is not installed")
    spec = ranks_job(nodes.folder, PROGRAM, "auto", nodes=2)
    spec = spec.model_copy(update={"queue": Queue(cache="", poll_s=1, settle_s=1, watch_s=1)})
    Path(spec.folder).mkdir(parents=True)
    write_json(JobFolder(Path(spec.folder)).spec, spec)
    started = [nodes.start(node, spec, "23456") for node in range(2)]
    try:
        said = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert [process.returncode for process in started] == [0, 0], said
    ranks = found(nodes.folder)
    assert [rank["sum"] for rank in ranks] == [1111.0] * 4
    assert [rank["host"] for rank in ranks] == ["node-0", "node-0", "node-1", "node-1"]
    for node in range(2):
        first, second = ranks[2 * node : 2 * node + 2]
        own = [f"from-{2 * node}", f"from-{2 * node + 1}"]
        assert [name for name in first["shm"] if name.startswith("from-")] == own
        assert first["device"] == second["device"] and first["scratch"] == second["scratch"]
        assert first["tmp"] == [f"mine-{2 * node}", f"mine-{2 * node + 1}"]
        assert first["scratch"].startswith("/tmp/aevo-")
    assert not any(rank["secret"] or rank["slurm"] for rank in ranks)
