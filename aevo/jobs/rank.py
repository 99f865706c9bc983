"""Starts one rank: srun's variables as torch's, then the command itself.

    srun … python aevo/jobs/rank.py PORT COMMAND …

A rank dies with the process that started it, however that dies: a slurmstepd that is killed cannot
end its tasks. Of confined ranks a node has one sandbox: `node.py` and `ranks.py`.

A script of the standard library alone, so that it runs with whatever Python a container has.
"""

import ctypes
import os
import re
import signal
import sys

SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2); it survives exec


def first_host(nodelist: str) -> str:
    """First host of a Slurm node list: `h200-[03-05,9],x` is `h200-03`.

    Raises:
        ValueError: the list is empty.
    """
    first = re.match(r"(?:[^\[,]|\[[^\]]*\])+", nodelist)
    if first is None:
        raise ValueError(f"no host in SLURM_STEP_NODELIST={nodelist!r}")
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first.group())


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
        "MASTER_ADDR": first_host(ours["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": port,
    }


def main(arguments: list[str]) -> None:
    """Replaces this process by the command, with the rank's environment."""
    port, *command = arguments
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    here = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "SRUN_", "SBATCH_", "PMI"))
    }
    os.execvpe(command[0], command, here | rank_environment(dict(os.environ), port))


if __name__ == "__main__":
    main(sys.argv[1:])
