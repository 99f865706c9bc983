"""One node's part of a distributed, confined step: a sandbox, and in it the ranks of the node.

    srun … python -I aevo/jobs/node.py FOLDER STEP PORT     (aevo.jobs.launch; one task a node)

Everything that is a node's own is made here, on that node: scratch, the choice of the sandbox, the
devices that it shows, the host's name that other nodes resolve. `-I`: what stands on PYTHONPATH is
a worker's, and would be imported outside of the sandbox.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from aevo.cli import report
from aevo.errors import AevoError
from aevo.files.documents import read
from aevo.files.untrusted import scratch_folder
from aevo.jobs.confined import confined
from aevo.jobs.folder import JobFolder
from aevo.jobs.launch import ranks_of
from aevo.jobs.progress import show_stacks
from aevo.jobs.rank import SCHEDULERS, hosts, link
from aevo.records.job import JobSpec

LOOK_S = 2.0


def run(folder: Path, number: int, port: str) -> int:
    """This node's part; its exit code.

    Raises:
        SandboxError: nothing confines here.
    """
    spec = read(JobSpec, JobFolder(folder).spec)
    step = spec.steps[number]
    nodes = int(os.environ["SLURM_STEP_NUM_NODES"])
    node, nodelist = int(os.environ["SLURM_NODEID"]), os.environ["SLURM_STEP_NODELIST"]
    master = hosts(nodelist)[0] if nodes > 1 else "127.0.0.1"
    command = ranks_of(spec, step, node, nodes, master, port)
    with scratch_folder("aevo-") as scratch:
        variables = {k: v for k, v in os.environ.items() if not k.startswith(SCHEDULERS)}
        variables |= {"TMPDIR": str(scratch), "HOME": str(scratch)} | link(nodelist, node)
        argv = confined(spec, step, command, str(scratch), variables)
        child = subprocess.Popen(
            argv, cwd=step.cwd, env=variables, stdin=subprocess.DEVNULL, start_new_session=True
        )

        def forward(signal_number: int, frame: FrameType | None) -> None:
            child.send_signal(signal_number)

        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, forward)
        asked = JobFolder(folder).stacks
        while child.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=LOOK_S)
            if child.returncode is None and asked.exists():  # the job stands still: it ends us soon
                show_stacks(child.pid)
                child.kill()
        code = child.returncode
    return code if code >= 0 else 128 - code


def main(arguments: list[str]) -> None:
    """The command line."""
    folder, number, port = arguments
    try:
        sys.exit(run(Path(folder), int(number), port))
    except AevoError as error:
        report(error)
        sys.exit(error.code)


if __name__ == "__main__":
    main(sys.argv[1:])
