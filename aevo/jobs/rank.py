"""Starts one rank: srun's variables as torch's, then the command itself.

    srun … python aevo/jobs/rank.py PORT COMMAND …

A rank dies with the process that started it, however that dies: a slurmstepd that is killed cannot
end its tasks. Of confined ranks a node has one sandbox: `node.py` and `ranks.py`.

A script of the standard library alone, so that it runs with whatever Python a container has.
"""

import ctypes
import fcntl
import os
import re
import signal
import socket
import struct
import sys

SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2); it survives exec
SCHEDULERS = ("SLURM_", "SRUN_", "SBATCH_", "PMI")  # variables that are no command's business
GET_ADDRESS = 0x8915  # SIOCGIFADDR of netdevice(7)


def hosts(nodelist: str) -> list[str]:
    """The hosts of a Slurm node list: `h200-[03-05,9],x` are h200-03, h200-04, h200-05, h200-9, x.

    Raises:
        ValueError: the list is empty.
    """
    found = []
    for one in re.findall(r"(?:[^\[,]|\[[^\]]*\])+", nodelist):
        names = [""]
        for text, ranges in re.findall(r"([^\[]+)|\[([^\]]*)\]", one):
            names = [name + part for name in names for part in ([text] if text else _each(ranges))]
        found += names
    if not found:
        raise ValueError(f"no host in SLURM_STEP_NODELIST={nodelist!r}")
    return found


def _each(ranges: str) -> list[str]:
    """`03-05,9`: 03, 04, 05, 9."""
    found = []
    for one in ranges.split(","):
        first, _, last = one.partition("-")
        numbers = range(int(first), int(last or first) + 1)
        found += [f"{number:0{len(first)}d}" for number in numbers]
    return found


def link(nodelist: str, node: int) -> dict[str, str]:
    """gloo's variable for the interface by which this node reaches the others; none for one node.

    Left alone, gloo takes the address that the host's own name stands for: on Debian, by default,
    the loopback. NCCL looks at the interfaces by itself.
    """
    others = hosts(nodelist)
    if len(others) == 1 or "GLOO_SOCKET_IFNAME" in os.environ:
        return {}
    peer = others[0 if node else 1]
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
            handle.connect((peer, 9))  # sends nothing: the kernel chooses the way
            ours = handle.getsockname()[0]
            for _, name in socket.if_nameindex():
                if ours == _address(handle, name):
                    return {"GLOO_SOCKET_IFNAME": name}
    except OSError:
        pass  # torch says by itself what it cannot resolve or reach
    return {}


def _address(handle: socket.socket, interface: str) -> str:
    """The IPv4 address of an interface; empty without one."""
    try:
        asked = struct.pack("256s", interface.encode()[:15])
        return socket.inet_ntoa(fcntl.ioctl(handle.fileno(), GET_ADDRESS, asked)[20:24])
    except OSError:
        return ""


def rank_environment(ours: dict[str, str], port: str) -> dict[str, str]:
    """torch's rank variables from srun's; devices are left as Slurm gave them."""
    nodes = int(ours["SLURM_STEP_NUM_NODES"])
    world = int(ours["SLURM_STEP_NUM_TASKS"])
    return {
        "RANK": ours["SLURM_PROCID"],
        "LOCAL_RANK": ours["SLURM_LOCALID"],
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world // nodes),
        "NODE_RANK": ours["SLURM_NODEID"],
        "GROUP_RANK": ours["SLURM_NODEID"],
        "MASTER_ADDR": hosts(ours["SLURM_STEP_NODELIST"])[0],
        "MASTER_PORT": port,
    }


def main(arguments: list[str]) -> None:
    """Replaces this process by the command, with the rank's environment."""
    port, *command = arguments
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    here = {name: value for name, value in os.environ.items() if not name.startswith(SCHEDULERS)}
    here |= rank_environment(dict(os.environ), port)
    here |= link(os.environ["SLURM_STEP_NODELIST"], int(os.environ["SLURM_NODEID"]))
    os.execvpe(command[0], command, here)


if __name__ == "__main__":
    main(sys.argv[1:])
