"""The shell of a worker's agent: one command in its fork, in the sandbox."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from aevo import sandbox
from aevo.files.untrusted import scratch_folder, shown
from aevo.jobs.environment import environment

# What a shell command may use up; a training is what is meant to take more.
LIMITS = sandbox.Confinement(memory_gb=4.0, processes=256, file_gb=1.0, disk_gb=2.0, log_gb=0.05)
LEAST_GB = 0.01  # of room, below which no command is run
GRACE_S = 10.0  # for the sandbox to end what is out of time
SHOWN = 64 * 1024  # bytes of output that are kept, half from its start and half from its end


def run_shell(
    command: str,
    fork: Path,
    read: list[str],
    hide: list[str],
    setting: sandbox.Setting,
    timeout_s: int,
    processor_s: int | None = None,
) -> tuple[str, str, float]:
    """Runs `command` with bash in `fork`; how it ended, what it said (at most SHOWN bytes), and the
    processor seconds that it took, all of its processes together, of `processor_s` at most.

    `python` is ours, and `frozen/` the first of the paths in `read`, as in the file tools. It sees
    the fork, the paths in `read` but those in `hide`, and scratch space in $TMPDIR, and
    writes the fork and the scratch space. Its whole process tree ends with it.

    Raises:
        SandboxError: nothing confines here, and the user did not say `sandbox=none`.
    """
    kind = sandbox.require(setting)
    show_frozen(fork, read[0])
    allowed = LIMITS.model_copy(update={"disk_gb": _room(fork)})
    with (
        scratch_folder("aevo-run-") as folder,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as account,
    ):
        scratch = str(folder)
        variables = environment(os.environ, {"PYTHONPATH": read[0], "HOME": scratch}, 1, scratch)
        variables["PATH"] = f"{Path(sys.executable).parent}:{variables.get('PATH', os.defpath)}"
        allowed = allowed.model_copy(
            update={
                "read": read,
                "hide": hide,
                "write": [str(fork), scratch],
                "cpu_s": timeout_s + 2,  # of a process: after the wall, which says what ended it
                "total_cpu_s": processor_s,
            }
        )
        argv = sandbox.wrap(
            ["bash", "-c", command],
            str(fork),
            variables,
            allowed,
            kind,
            wall_s=timeout_s,
            account=account.fileno(),
        )
        begun = time.monotonic()
        process = subprocess.Popen(
            argv,
            cwd=fork,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=variables,
            pass_fds=(account.fileno(),),
        )
        took, out_of_time = 0.0, f"timed out after {timeout_s} s"
        try:
            process.wait(timeout_s + (0 if kind == "none" else GRACE_S))
            took = time.monotonic() - begun
            late = process.returncode == sandbox.TIMED_OUT and took >= timeout_s
            ended = out_of_time if late else f"exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            took, ended = time.monotonic() - begun, out_of_time
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return ended, _ends(output.fileno()), _account(account.fileno(), took)


def _account(descriptor: int, wall_s: float) -> float:
    """Processor seconds as the sandbox counted them; without its count, the time that passed."""
    said = os.pread(descriptor, 32, 0).decode(errors="replace")
    try:
        return float(said)
    except ValueError:
        return wall_s


def _room(fork: Path) -> float:
    """GiB that a command may still write: what all commands before have left in the fork counts.

    Raises:
        SandboxError: the fork is full.
    """
    shut: set[str] = set()
    left = (LIMITS.disk_gb or 0.0) - sandbox.usage([str(fork)], shut) / (1 << 30)
    if shut:
        raise sandbox.SandboxError(
            f"your fork has a folder that cannot be looked into: {shown(min(shut))}",
            "no command runs in it any more",
        )
    if left < LEAST_GB:
        raise sandbox.SandboxError(
            f"your fork is full: it may hold {LIMITS.disk_gb:g} GiB",
            "remove what is not needed, with write_file or a new fork",
        )
    return left


def show_frozen(fork: Path, root: str) -> None:
    """A link in the fork, beside what is mutable: no digest, copy or change holds it."""
    link = fork / "frozen"
    if not link.is_symlink() and not link.exists():
        link.symlink_to(root)


def _ends(descriptor: int) -> str:
    """Start and end of a file, as text."""
    size = os.fstat(descriptor).st_size
    if size <= SHOWN:
        return os.pread(descriptor, SHOWN, 0).decode(errors="replace")
    head = os.pread(descriptor, SHOWN // 2, 0).decode(errors="replace")
    last = os.pread(descriptor, SHOWN // 2, size - SHOWN // 2).decode(errors="replace")
    return f"{head}\n[… {size - SHOWN} bytes left out …]\n{last}"
