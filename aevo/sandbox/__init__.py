"""Confines one command: what worker-written code may read, write, reach and use up.

    kind = sandbox.require("auto")        # once, at the start: tried, not believed
    argv = sandbox.wrap(["python", "-m", "train.sft"], cwd, env, Confinement(write=[out]), kind)
    subprocess.Popen(argv, env=env, pass_fds=[lease.fd], start_new_session=True)

`argv` starts `supervise.py`, unconfined, which keeps leases, watches limits and passes on signals
and the exit code (128 + n for signal n; STOPPED for an exceeded limit; 127 for a command that is
not there; `inside.FAILED` for one that could not be confined). To end it, end its process group:
a signal that it can catch goes to the command, SIGKILL ends the whole tree.

| taken away | bubblewrap | landlock | landlock where the kernel grants no namespaces |
|---|---|---|---|
| read, list, write outside of the paths given | not visible | refused | refused |
| existence, size, owner of files elsewhere (`stat`) | not visible | **visible** | **visible** |
| mode, owner, times of files elsewhere | read-only | read-only | calls do nothing, also inside |
| network, all protocols | own namespace | own namespace | no sockets at all, so no loopback |
| socket files (munge, Slurm, docker) | not visible | no AF_UNIX sockets | no AF_UNIX sockets |
| abstract sockets, signals to others | namespaces | namespaces | kernel 6.12 and later |
| other processes: environment, memory, files | not visible | not visible | refused; names visible |
| limits, priority, processors of others | not visible | not visible | refused |
| what happens in folders elsewhere (inotify) | not visible | refused | refused |
| the kernel's settings: /proc/sys, sysrq-trigger, irq, bus, fs | read-only | refused | refused |
| kcore, kmsg, keys, timer_list | withheld | empty | as the machine's permissions say |
| /tmp, /dev/shm | private | private /dev/shm, no /tmp | neither (no multiprocessing locks) |
| strays after SIGKILL of the supervisor | ended by the kernel | by the kernel | by a monitor |

For all kinds: no capabilities, no new privileges, no set-user-id files, no leases on files, no
System V memory or queues, files without a name in memory for GPUs' drivers alone, no descriptors
but stdio, a session of its own, a system call filter (`seccomp.py`), the environment by name. What
is hidden inside of a readable folder is covered by bubblewrap; Landlock grants its neighbours one
by one. Where single files are hidden, their content is out of
reach and their names may be seen; where a folder is, nothing above it can be listed under Landlock.
No kind but bubblewrap can take a path back inside of a writable one.

All ranks of a node belong into one sandbox. `loopback=True`: they meet on a loopback, which is
their own, or where the kernel grants no namespaces the machine's. With `network=True`, which ranks
of several nodes need, they share the machine's network. TCP goes to ports from 7100 only (Landlock
ABI 4, kernel 6.7), which leaves out the metadata address, ssh, HTTP and Slurm; before that kernel
they can be reached. **Not prevented**: UDP, RDMA, services on high ports, abstract sockets before
kernel 6.12. Munge stays out of reach, so that Slurm takes no order. Prefer `network=False`: with
bubblewrap and Landlock's namespaces a loopback of its own serves a single node.

Not prevented by any kind: faults of the kernel or the GPU driver; talk through time or load;
what a trusted reader does with the output. **Output may hold links, pipes and twins of files**:
look with `irregular` before reading it. Memory, disk and processes are counted several times a
second, so they may be exceeded for that long; for users other than root the kernel bounds processes
itself. As root without namespaces, a fork bomb that opens a session for each process might outrun
the walk that ends it. Output to a pipe is not counted: send it to a file, which `log_gb` bounds.
"""

from aevo.records.job import Confinement, Kind, Setting
from aevo.sandbox.grants import SandboxError, irregular
from aevo.sandbox.probe import failure, offered, probe, require
from aevo.sandbox.supervise import STOPPED, TIMED_OUT, usage
from aevo.sandbox.wrapping import wrap

__all__ = [
    "STOPPED",
    "TIMED_OUT",
    "Confinement",
    "Kind",
    "SandboxError",
    "Setting",
    "failure",
    "irregular",
    "offered",
    "probe",
    "require",
    "usage",
    "wrap",
]
