"""Ray in the allocation, as NVIDIA's ray.sub starts it: a head on one node, the others join.

srun starts one of us a node (aevo/jobs/launch.py); the ports are those of ray.sub, which keep out
of each other's way and out of the kernel's own range, so a node is one run's. Ray is called as
`python -c`, in the interpreter that runs us: containers differ in what is on PATH.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from train.nemo_rl.tasks import NemoRlError

CALL = "from ray.scripts.scripts import main; main()"
PORT = 9900  # of the head
HEAD_PORTS = {
    "port": PORT, "ray-client-server-port": 9901, "dashboard-port": 8265,
    "node-manager-port": 53002, "object-manager-port": 53004, "runtime-env-agent-port": 53006,
    "dashboard-agent-grpc-port": 53008, "metrics-export-port": 53010,
}
NODE_PORTS = {
    "node-manager-port": 53001, "object-manager-port": 53003, "runtime-env-agent-port": 53005,
    "dashboard-agent-grpc-port": 53007, "metrics-export-port": 53009,
}
COMMON_PORTS = {
    "min-worker-port": 10002, "max-worker-port": 11000, "dashboard-agent-listen-port": 52365,
}
FILES = 65535  # open files that Ray's makers recommend
TRIES, WAIT_SECONDS = 20, 10.0  # of a node to join: the head may start later
MISSED = 3  # looks at the head in vain, until a node believes that it is gone


def words(gpus: int, head: str, first: bool) -> list[str]:
    """Arguments of `ray` that start a node with so many GPUs."""
    ports = COMMON_PORTS | (HEAD_PORTS if first else NODE_PORTS)
    where = ["--head", f"--node-ip-address={head}"] if first else [f"--address={head}:{PORT}"]
    # NeMo-RL reuses a cluster that somebody else started only where this resource says so.
    units = json.dumps({"worker_units": gpus, "slurm_managed_ray_cluster": 1})
    return ["start", *where, "--disable-usage-stats", f"--resources={units}",
            *(f"--{name}={port}" for name, port in ports.items())]


def environment() -> None:
    """What Ray and NeMo-RL read, for this process and its children."""
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # as in NVIDIA's container and ray.sub
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def head(gpus: int) -> Iterator[None]:
    """A cluster with this node as its head, ended afterwards.

    Raises:
        NemoRlError: Ray does not start.
    """
    address = _address(os.environ.get("MASTER_ADDR", "127.0.0.1"))
    _ray("stop", "--force")  # of a run that was killed here
    if status := _ray(*words(gpus, address, first=True)):
        raise NemoRlError(f"`ray start --head` ended with exit status {status}; see above")
    try:
        yield
    finally:
        _ray("stop", "--force")


def join(gpus: int) -> None:
    """Be a node of the cluster until its head is gone.

    Raises:
        NemoRlError: the head never came.
    """
    address = _address(os.environ["MASTER_ADDR"])
    for _ in range(TRIES):
        _ray("stop", "--force")
        if not _ray(*words(gpus, address, first=False)):
            break
        time.sleep(WAIT_SECONDS)
    else:
        raise NemoRlError(f"no Ray head at {address}:{PORT}")
    missed = 0
    while missed < MISSED:
        time.sleep(WAIT_SECONDS)
        missed = 0 if _listens(address) else missed + 1
    _ray("stop", "--force")


def _ray(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-c", CALL, *arguments], stdin=subprocess.DEVNULL,
                          check=False).returncode


def _address(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise NemoRlError(f"{host}: {error}") from error


def _listens(address: str) -> bool:
    try:
        socket.create_connection((address, PORT), timeout=WAIT_SECONDS).close()
    except OSError:
        return False
    return True
