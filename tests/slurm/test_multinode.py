"""Distributed commands: two fake nodes with two ranks each through srun, two ranks here through
the starter of ranks; devices as Slurm gave them; no rank outlives its job."""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aevo.config.cluster import LocalCluster, SlurmCluster
from aevo.errors import JobError
from aevo.jobs.ending import cancel
from aevo.jobs.folder import JobFolder
from aevo.jobs.rank import hosts, rank_environment
from aevo.jobs.state import observe
from aevo.jobs.submit import submit, wait
from aevo.records.job import JobSpec, Resources, Step
from tests.conftest import until
from tests.slurm.conftest import Slurm

pytestmark = [pytest.mark.together("slurm"), pytest.mark.long(40)]

PROGRAM = """
import json, os, pathlib, sys, time
out, mode = pathlib.Path(sys.argv[1]), sys.argv[2]
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK",
         "MASTER_ADDR", "MASTER_PORT", "CUDA_VISIBLE_DEVICES")
found = {name: os.environ.get(name) for name in names}
found |= {"pid": os.getpid(), "slurm": [name for name in os.environ if name.startswith("SLURM_")]}
rank = found["RANK"]
if mode == "sum":
    import torch
    import torch.distributed as dist
    dist.init_process_group("gloo")
    value = torch.tensor([float(10 ** dist.get_rank())])
    dist.all_reduce(value)
    found["sum"] = value.item()
part = out / f"rank-{rank}.part"
part.write_text(json.dumps(found))
part.rename(out / f"rank-{rank}.json")
if mode == "sum":
    dist.barrier()
    dist.destroy_process_group()
if mode == "die" and rank == "3":
    while len(list(out.glob("rank-*.json"))) < 4:
        time.sleep(0.05)
    sys.exit(7)
if mode in ("die", "stay"):
    time.sleep(300)
if rank == "0":
    (out / "done").write_text("")
"""


@pytest.fixture
def cluster(slurm: Slurm) -> SlurmCluster:
    """The dev cluster's settings, on two of its nodes."""
    settings = slurm.settings
    settings["train"] = settings["train"] | {"nodelist": "h200-[0-1]"}
    return SlurmCluster.model_validate(settings)


@pytest.fixture
def local(tmp_path: Path) -> LocalCluster:
    """This machine, with slots of the test's own."""
    return LocalCluster(kind="local", slots=1, slot_folder=str(tmp_path / "slots"), max_wait_min=10)


@pytest.fixture
def ended(tmp_path: Path) -> Iterator[None]:
    """No job of the test outlives it."""
    yield
    for path in tmp_path.glob("round-01/jobs/*/spec.json"):
        cancel(JobFolder(path.parent))


def distributed(folder: Path, mode: str, nodes: int, gpus: int = 2) -> JobSpec:
    (folder / "program.py").write_text(PROGRAM)
    (folder / "out").mkdir()
    return JobSpec(
        name="ranks",
        kind="train",
        campaign=folder.name,
        attempts=1,
        folder=str(folder / "round-01" / "jobs" / "ranks"),
        product=str(folder / "out" / "done"),
        steps=[
            Step(
                argv=[sys.executable, str(folder / "program.py"), str(folder / "out"), mode],
                cwd=str(folder),
                distributed=True,
            )
        ],
        resources=Resources(nodes=nodes, tasks_per_node=2, gpus=gpus, time_min=5),
    )


def ranks(folder: Path) -> list[dict[str, Any]]:
    """What the ranks said of themselves, in order."""
    return [json.loads(path.read_text()) for path in sorted((folder / "out").glob("rank-*.json"))]


def alive(pids: list[int]) -> list[int]:
    return [
        pid
        for pid in pids
        if Path(f"/proc/{pid}").exists()
        and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    ]


def given(slurm: Slurm, job_id: str) -> dict[str, list[int]]:
    """The device numbers that Slurm gave a job, by node."""
    shown = slurm.run(["scontrol", "--details", "show", "job", job_id]).stdout
    found = {}
    for node, text in re.findall(
        r"Nodes=(\S+) CPU_IDs=\S+ Mem=\S+ GRES=gpu\S*IDX:([\d,-]+)\)", shown
    ):
        numbers = [part.split("-") for part in text.split(",")]
        for name in slurm.run(["scontrol", "show", "hostnames", node]).stdout.split():
            found[name] = [
                number for part in numbers for number in range(int(part[0]), int(part[-1]) + 1)
            ]
    return found


@pytest.fixture
def lower_half_taken(slurm: Slurm) -> Iterator[None]:
    """Another job holds devices 0-3 of both nodes."""
    sent = slurm.run(
        [
            "sbatch",
            "--parsable",
            "--partition=h200",
            "--nodes=2",
            "--mem=100",
            "--nodelist=h200-[0-1]",
            "--gres=gpu:h200:4",
            "--output=/dev/null",
            "--wrap=sleep 120",
        ]
    )
    assert sent.returncode == 0, sent.stderr
    job_id = sent.stdout.strip()
    try:
        until(
            lambda: (
                slurm.run(["squeue", "-h", f"--jobs={job_id}", "--format=%T"]).stdout.strip()
                == "RUNNING"
            )
        )
        yield
    finally:
        slurm.run(["scancel", job_id])


def test_four_ranks_on_two_nodes_agree(
    slurm: Slurm, cluster: SlurmCluster, lower_half_taken: None, ended: None, tmp_path: Path
) -> None:
    spec = distributed(tmp_path, "sum", nodes=2)
    submit(spec, cluster)
    devices: dict[str, list[int]] = {}

    def told() -> bool:  # Slurm tells while the job lives; wait returns when it has ended
        job_id = observe(JobFolder.of(spec)).job_id
        devices.update(given(slurm, job_id) if job_id else {})
        return len(devices) == 2

    until(told)
    wait(spec, cluster)
    found = ranks(tmp_path)
    assert [item["sum"] for item in found] == [1111.0] * 4
    assert [item["RANK"] for item in found] == ["0", "1", "2", "3"]
    assert [item["LOCAL_RANK"] for item in found] == ["0", "1", "0", "1"]
    assert [item["NODE_RANK"] for item in found] == ["0", "0", "1", "1"]
    assert {item["WORLD_SIZE"] for item in found} == {"4"}
    assert {item["LOCAL_WORLD_SIZE"] for item in found} == {"2"}
    assert {item["MASTER_ADDR"] for item in found} == {"h200-0"}
    assert len({item["MASTER_PORT"] for item in found}) == 1
    assert all(item["slurm"] == [] for item in found), "a rank could submit jobs"
    seen = [[int(number) for number in item["CUDA_VISIBLE_DEVICES"].split(",")] for item in found]
    assert seen == [devices["h200-0"]] * 2 + [devices["h200-1"]] * 2
    assert not {0, 1, 2, 3} & {number for item in seen for number in item}


def test_rank_that_dies_fails_the_step_at_once(
    slurm: Slurm, cluster: SlurmCluster, ended: None, tmp_path: Path
) -> None:
    spec = distributed(tmp_path, "die", nodes=2)
    with pytest.raises(JobError, match="ended with exit code"):
        wait(spec, cluster)
    pids = [item["pid"] for item in ranks(tmp_path)]
    assert len(pids) == 4
    until(lambda: alive(pids) == [])
    job = JobFolder(Path(spec.folder))
    end = job.ended(1)
    assert end is not None and end.exit_code != 0 and end.seconds < 150
    # srun's own exit code is the highest, that of the ranks it ended; its words name the first
    assert "task 3: Exited with exit code 7" in job.log(1).read_text()
    job_id = observe(job).job_id
    assert job_id is not None
    until(lambda: "JobState=FAILED" in slurm.run(["scontrol", "show", "job", job_id]).stdout)


def test_cancelled_job_leaves_no_rank(
    slurm: Slurm, cluster: SlurmCluster, ended: None, tmp_path: Path
) -> None:
    spec = distributed(tmp_path, "stay", nodes=2)
    job_id = submit(spec, cluster).job_id
    assert job_id is not None
    until(lambda: len(ranks(tmp_path)) == 4)
    pids = [item["pid"] for item in ranks(tmp_path)]
    assert alive(pids) == pids
    assert slurm.run(["scancel", job_id]).returncode == 0
    until(lambda: alive(pids) == [])
    until(lambda: observe(JobFolder(Path(spec.folder))).cancelled)


def test_ranks_die_with_the_step_daemon(
    slurm: Slurm, cluster: SlurmCluster, ended: None, tmp_path: Path
) -> None:
    """Slurm starts the job anew when a node loses its daemons; the old ranks must not go on."""
    spec = distributed(tmp_path, "stay", nodes=2)
    submit(spec, cluster)
    until(lambda: len(ranks(tmp_path)) == 4)
    last = ranks(tmp_path)[3]["pid"]
    stepd = int(re.findall(r"PPid:\s*(\d+)", Path(f"/proc/{last}/status").read_text())[0])
    assert "slurmstepd" in Path(f"/proc/{stepd}/cmdline").read_text()
    os.kill(stepd, signal.SIGKILL)
    until(lambda: alive([last]) == [])


def test_two_ranks_on_this_machine_agree(local: LocalCluster, ended: None, tmp_path: Path) -> None:
    spec = distributed(tmp_path, "sum", nodes=1, gpus=0)
    wait(spec, local)
    found = ranks(tmp_path)
    assert [item["sum"] for item in found] == [11.0, 11.0]
    assert [item["LOCAL_RANK"] for item in found] == ["0", "1"]
    assert {item["WORLD_SIZE"] for item in found} == {"2"}


def test_cancelled_job_on_this_machine_leaves_no_rank(
    local: LocalCluster, ended: None, tmp_path: Path
) -> None:
    spec = distributed(tmp_path, "stay", nodes=1, gpus=0)
    submit(spec, local)
    until(lambda: len(ranks(tmp_path)) == 2)
    pids = [item["pid"] for item in ranks(tmp_path)]
    assert cancel(JobFolder(Path(spec.folder)))
    until(lambda: alive(pids) == [])


def test_several_nodes_need_slurm(local: LocalCluster, ended: None, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="asks for 2 nodes, this is one machine"):
        wait(distributed(tmp_path, "stay", nodes=2), local)


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        ("h200-0", ["h200-0"]),
        ("h200-[0-1]", ["h200-0", "h200-1"]),
        ("h200-[03-05,9],x", ["h200-03", "h200-04", "h200-05", "h200-9", "x"]),
        ("a,b[1-2]", ["a", "b1", "b2"]),
        ("n[7,9]", ["n7", "n9"]),
        ("rack1-n[001-002]-ib", ["rack1-n001-ib", "rack1-n002-ib"]),
        ("r[1-2]n[3-4]", ["r1n3", "r1n4", "r2n3", "r2n4"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
    ],
)
def test_hosts_of_a_node_list(nodes: str, names: list[str]) -> None:
    """As `scontrol show hostnames` gives them."""
    assert hosts(nodes) == names


def test_rank_environment_needs_a_node_list() -> None:
    ours = {
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NUM_TASKS": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_STEP_NODELIST": "",
    }
    with pytest.raises(ValueError, match="SLURM_STEP_NODELIST"):
        rank_environment(ours, "29500")
