"""Starts the ranks of one node and looks after them: as one of them fails, all end.

    python ranks.py COUNT NODE NODES MASTER PORT COMMAND …      (aevo.jobs.launch, aevo.jobs.node)

In the sandbox, of which a node has one: ranks share its /dev/shm and its abstract sockets, without
which NCCL takes them for different machines and leaves NVLink alone. PORT 0: any that is free, on a
single node. A script of the standard library alone, so that it runs with whatever Python there is.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time

SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2); it survives exec
GRACE_S = 10.0  # between asking the other ranks to end and killing them
_prctl = ctypes.CDLL(None).prctl


def environment(
    local: int, count: int, node: int, nodes: int, master: str, port: str
) -> dict[str, str]:
    """torch's variables of one rank."""
    found = {
        "RANK": str(node * count + local),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(nodes * count),
        "LOCAL_WORLD_SIZE": str(count),
        "NODE_RANK": str(node),
        "GROUP_RANK": str(node),
        "MASTER_ADDR": master,
        "MASTER_PORT": port,
    }
    if nodes == 1:  # the sandbox has a name that nothing resolves, and loopback alone
        found["GLOO_SOCKET_IFNAME"] = "lo"
    return found


def free_port() -> str:
    """One that nobody listens on now."""
    with socket.socket() as handle:
        handle.bind(("127.0.0.1", 0))
        return str(handle.getsockname()[1])


def start(command: list[str], variables: dict[str, str]) -> "subprocess.Popen[bytes]":
    """One rank; it dies with us, however that happens."""
    return subprocess.Popen(
        command,
        env={**os.environ, **variables},
        preexec_fn=lambda: _prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0),
    )


def wait(ranks: "list[subprocess.Popen[bytes]]") -> int:
    """Until all have ended well, or one has not and the others are ended; the exit code."""
    while True:
        codes = [rank.poll() for rank in ranks]
        bad = [code for code in codes if code]
        if bad:
            end(ranks)
            return bad[0] if bad[0] > 0 else 128 - bad[0]
        if None not in codes:
            return 0
        time.sleep(0.05)


def end(ranks: "list[subprocess.Popen[bytes]]") -> None:
    """Asks them to end, then kills them."""
    for rank in ranks:
        if rank.poll() is None:
            rank.terminate()
    limit = time.monotonic() + GRACE_S
    while time.monotonic() < limit and any(rank.poll() is None for rank in ranks):
        time.sleep(0.05)
    for rank in ranks:
        if rank.poll() is None:
            rank.kill()


def main(arguments: list[str]) -> int:
    """The command line; the exit code."""
    count, node, nodes = (int(word) for word in arguments[:3])
    master, port, *command = arguments[3:]
    if port == "0":
        port = free_port()
    ranks = [
        start(command, environment(local, count, node, nodes, master, port))
        for local in range(count)
    ]

    def asked(number: int, frame: object) -> None:
        end(ranks)
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked)
    return wait(ranks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
