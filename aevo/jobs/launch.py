"""How a command of the training stack is started: as it is, in a container, once per rank.

A pure function of step, resources and site. On Slurm a distributed step is one srun with a task
per rank; srun's own variables become torch's through `aevo.jobs.rank`. All tasks of a node see
all of its devices: `LOCAL_RANK` picks one among `CUDA_VISIBLE_DEVICES`, which is left as Slurm
set it: it names what the job was given, and numbers of our own could be another job's devices.
Elsewhere torchrun starts the ranks of this machine.
"""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from aevo.errors import JobError
from aevo.records.job import Container, JobSpec, Step

RANK = Path(__file__).with_name("rank.py")


def argv(spec: JobSpec, step: Step, command: Sequence[str] | None = None) -> list[str]:
    """The whole argument vector of a step; `command` is what the sandbox made of the step's own.

    Raises:
        JobError: several nodes are asked for where there is no Slurm.
    """
    step = step.model_copy(update={"argv": list(command or step.argv)})
    ranks = spec.resources.ranks if step.distributed else 1
    if spec.queue is None:
        return step.argv if ranks == 1 else _torchrun(spec, step)
    container = spec.launch.container
    inner = [sys.executable, str(RANK), str(_port(spec)), *step.argv] if ranks > 1 else step.argv
    if container.python and container.kind != "none":
        inner = [container.python if word == sys.executable else word for word in inner]
    if container.kind == "apptainer":
        inner = _apptainer(container, step, spec.resources.gpus > 0) + inner
    if ranks == 1 and container.kind != "pyxis":
        return inner
    return [*_srun(spec, step, ranks > 1), *inner]


def _srun(spec: JobSpec, step: Step, distributed: bool) -> list[str]:
    wanted = spec.resources
    nodes, tasks = (wanted.nodes, wanted.tasks_per_node) if distributed else (1, 1)
    found = [
        "srun",
        "--unbuffered",
        "--kill-on-bad-exit=1",
        f"--nodes={nodes}",
        f"--ntasks={nodes * tasks}",
        f"--ntasks-per-node={tasks}",
        f"--cpus-per-task={wanted.cpus}",  # not inherited from the job since Slurm 22.05
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


def _torchrun(spec: JobSpec, step: Step) -> list[str]:
    if spec.resources.nodes > 1:
        raise JobError(
            f"{spec.name} asks for {spec.resources.nodes} nodes, this is one machine",
            "run it with a Slurm cluster, or set nodes to 1",
        )
    python, *rest = step.argv
    return [
        python,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--no-python",
        f"--nproc-per-node={spec.resources.tasks_per_node}",
        python,
        str(RANK),
        "torchrun",
        python,
        *rest,
    ]


def _port(spec: JobSpec) -> int:
    """The rendezvous port: the same on all ranks, another for each job on a shared node."""
    return 20000 + int(hashlib.sha256(spec.folder.encode()).hexdigest()[:6], 16) % 20000
