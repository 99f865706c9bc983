"""How a command of the training stack is started: as it is, in a container, once per rank.

A pure function of step, resources and site. Confined ranks have one sandbox a node: `ranks.py`
starts them in it, `node.py` makes it, on Slurm by one srun with a task a node. Ranks in a container
of the site's, or unconfined, are an srun with a task per rank; srun's own variables become torch's
through `rank.py`. All ranks of a node see all of its devices: `LOCAL_RANK` picks one among
`CUDA_VISIBLE_DEVICES`, which is left as Slurm set it: it names what the job was given, and numbers
of our own could be another job's devices.
"""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from aevo.errors import JobError
from aevo.records.job import Container, JobSpec, Step

HERE = Path(__file__).resolve().parent
RANK, RANKS, NODE = HERE / "rank.py", HERE / "ranks.py", HERE / "node.py"


def argv(spec: JobSpec, step: Step, command: Sequence[str] | None = None) -> list[str]:
    """The whole argument vector of a step; `command` is what the sandbox made of the step's own.

    Raises:
        JobError: several nodes are asked for where there is no Slurm.
    """
    step = step.model_copy(update={"argv": list(command or step.argv)})
    if on_this_machine(spec, step):
        return ranks_of(spec, step)
    ranks = spec.resources.ranks if step.distributed else 1
    if spec.queue is None:
        return step.argv
    if node_of_its_own(spec, step):
        number = next(at for at, own in enumerate(spec.steps) if own.distributed and own.confine)
        inner = [sys.executable, "-I", str(NODE), spec.folder, str(number), str(_port(spec))]
        return [*_srun(spec, step, by_node=True), *inner]
    container = spec.launch.container
    inner = [sys.executable, str(RANK), str(_port(spec)), *step.argv] if ranks > 1 else step.argv
    if container.python and container.kind != "none":
        inner = [container.python if word == sys.executable else word for word in inner]
    if container.kind == "apptainer":
        inner = _apptainer(container, step, spec.resources.gpus > 0) + inner
    if ranks == 1 and container.kind != "pyxis":
        return inner
    return [*_srun(spec, step, ranks > 1), *inner]


def node_of_its_own(spec: JobSpec, step: Step) -> bool:
    """True for a distributed step on Slurm whose ranks are confined: a sandbox a node, the ranks in
    it. What runs unconfined, or in a container of the site's, is started by srun once per rank."""
    return (
        step.distributed
        and step.confine is not None
        and spec.queue is not None
        and spec.resources.ranks > 1
        and spec.sandbox != "none"
        and spec.launch.container.kind == "none"
    )


def on_this_machine(spec: JobSpec, step: Step) -> bool:
    """True for ranks without Slurm."""
    return step.distributed and spec.queue is None and spec.resources.ranks > 1


def ranks_of(
    spec: JobSpec,
    step: Step,
    node: int = 0,
    nodes: int = 1,
    master: str = "127.0.0.1",
    port: str = "0",
) -> list[str]:
    """The command that starts the ranks of one node; it runs where they run, in the sandbox.

    Raises:
        JobError: several nodes are asked for where there is no Slurm.
    """
    if spec.queue is None and spec.resources.nodes > 1:
        raise JobError(
            f"{spec.name} asks for {spec.resources.nodes} nodes, this is one machine",
            "run it with a Slurm cluster, or set nodes to 1",
        )
    count = str(spec.resources.tasks_per_node)
    # -I: the files that a worker wrote, on PYTHONPATH, stand in for none of Python's own.
    starter = [sys.executable, "-I", str(RANKS), count, str(node), str(nodes), master, port]
    return [*starter, *step.argv]


def _srun(spec: JobSpec, step: Step, distributed: bool = True, by_node: bool = False) -> list[str]:
    wanted = spec.resources
    nodes, tasks = (wanted.nodes, wanted.tasks_per_node) if distributed else (1, 1)
    cpus = wanted.cpus
    if by_node:
        tasks, cpus = 1, cpus * tasks
    found = [
        "srun",
        "--unbuffered",
        "--kill-on-bad-exit=1",
        f"--nodes={nodes}",
        f"--ntasks={nodes * tasks}",
        f"--ntasks-per-node={tasks}",
        f"--cpus-per-task={cpus}",  # not inherited from the job since Slurm 22.05
        f"--chdir={step.cwd}",
    ]
    if wanted.gpus:
        found += [f"--gpus-per-node={wanted.gpus}"]
    container = spec.launch.container
    if container.kind == "pyxis":
        found += [f"--container-image={container.image}", f"--container-workdir={step.cwd}"]
        if container.mounts:
            found.append(f"--container-mounts={','.join(container.mounts)}")
        found += container.arguments
    return [*found, *spec.launch.srun]


def _apptainer(container: Container, step: Step, devices: bool) -> list[str]:
    found = ["apptainer", "exec", "--no-home", f"--pwd={step.cwd}"]
    if devices:
        found.append("--nv")
    found += [f"--bind={mount}" for mount in container.mounts]
    return [*found, *container.arguments, container.image or ""]


def _port(spec: JobSpec) -> int:
    """The rendezvous port: the same on all ranks, another for each job on a shared node."""
    return 20000 + int(hashlib.sha256(spec.folder.encode()).hexdigest()[:6], 16) % 20000
