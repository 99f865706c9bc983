"""What runs inside a job: wait for its turn, run its commands, leave how it ended.

Exit codes tell the truth: an attempt that did not leave the job's product fails, whatever its
commands returned.
"""

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from aevo.errors import AevoError, JobError
from aevo.jobs import lease
from aevo.jobs.lease import Lease
from aevo.jobs.state import JobFolder, observe
from aevo.records.io import read, write_json
from aevo.records.job import JobEnd, JobSpec, Running, Step

# What a command of the substrate may see of our environment. Everything else, API keys and
# scheduler variables first of all, stays outside.
PASSED = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH",
          "VIRTUAL_ENV", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "HF_HOME", "SSL_CERT_FILE")
# A dependency whose process died is given this long to be submitted again before it counts as
# ended (locally the driver resubmits within a second or two).
GRACE_S = 20.0
POLL_S = 0.25
INTERRUPTED, CANCELLED = 130, 143  # exit codes of an attempt that a person ended


def run_job(folder: str, attempt: int, slots: list[str]) -> int:
    """Runs attempt `attempt` of the job in `folder`; the function that submitit calls.

    Args:
        folder: the job's folder.
        slots: lock files of the machine's slots; empty where a scheduler gives out resources.

    Returns:
        0. Any failure raises, so that the attempt's process exits non-zero.

    Raises:
        JobError: a command failed, ran out of time, or left no product.
    """
    job = JobFolder(Path(folder))
    spec = read(JobSpec, job.spec)
    alive = lease.take(job.alive)
    if alive is None:
        raise JobError(f"{spec.name}: another attempt of this job is alive; this one steps back")
    _own_session()
    signal.signal(signal.SIGTERM, _raise_exit)
    started = time.time()
    try:
        _run(job, spec, attempt, [Path(slot) for slot in slots], alive, started)
    except BaseException as error:
        code, message = _judge(error)
        _leave_end(job, spec, attempt, code, message, started)
        if not isinstance(error, AevoError | SystemExit | KeyboardInterrupt):
            traceback.print_exc()
        raise JobError(f"{spec.name}: {message}") from error
    _leave_end(job, spec, attempt, 0, "", started)
    return 0


def _run(
    job: JobFolder, spec: JobSpec, attempt: int, slots: list[Path], alive: Lease, started: float
) -> None:
    def enter(phase: Any, child: int | None = None) -> None:
        write_json(job.running, Running(
            name=spec.name, attempt=attempt, pid=os.getpid(), child=child,
            host=socket.gethostname(), started=started, phase=phase,
        ))

    enter("waiting" if spec.after else "queued")
    _await_dependencies(job, spec)
    inherited = [alive.fd]
    if slots and spec.resources.slots:
        enter("queued")
        slot = lease.take_any(slots, POLL_S, lambda: None)
        inherited.append(slot.fd)
    enter("running")
    if Path(spec.product).exists():
        return
    if spec.entry is not None:
        module, function = spec.entry.split(":")
        getattr(importlib.import_module(module), function)(spec.arguments)
    deadline = time.monotonic() + 60 * spec.resources.time_min
    with tempfile.TemporaryDirectory(prefix="aevo-") as scratch:
        for step in spec.steps:
            _run_step(spec, step, inherited, deadline, scratch, enter)
    if not Path(spec.product).exists():
        raise JobError(f"ended without leaving {spec.product}")


def _await_dependencies(job: JobFolder, spec: JobSpec) -> None:
    """Locally, `after` means here what afterany means to a scheduler: ended, however it ended."""
    gone_since: dict[str, float] = {}
    pending = list(spec.after)
    while pending:
        for name in list(pending):
            state = observe(JobFolder(job.root.parent / name))
            if state.phase == "finished":
                pending.remove(name)
            elif state.alive:
                gone_since.pop(name, None)
            elif time.monotonic() - gone_since.setdefault(name, time.monotonic()) > GRACE_S:
                pending.remove(name)
        if pending:
            time.sleep(POLL_S)


def _run_step(
    spec: JobSpec, step: Step, inherited: list[int], deadline: float, scratch: str, enter: Any
) -> None:
    print(f"$ {' '.join(step.argv)}", flush=True)
    child = subprocess.Popen(
        step.argv, cwd=step.cwd, stdin=subprocess.DEVNULL, pass_fds=inherited,
        start_new_session=True, env=environment(os.environ, step.env, spec.resources.cpus, scratch),
    )
    try:
        enter("running", child.pid)
        code = child.wait(timeout=max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise JobError(f"TIMEOUT after {spec.resources.time_min} min: {step.argv[2]}") from None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if code != 0:
        raise JobError(f"`{' '.join(step.argv[1:3])}` ended with {_exit_text(code)}")


def environment(
    ours: Mapping[str, str], step: Mapping[str, str], cpus: int, scratch: str
) -> dict[str, str]:
    """The environment of a substrate command: a short list of ours, and what makes it repeatable.

    No byte code is written, so that running a command never changes the substrate's tree.
    """
    return {
        **{key: ours[key] for key in PASSED if key in ours},
        "OMP_NUM_THREADS": str(cpus), "MKL_NUM_THREADS": str(cpus), "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "TMPDIR": scratch,
        "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        **step,
    }


def _judge(error: BaseException) -> tuple[int, str]:
    if isinstance(error, AevoError):
        return error.code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if isinstance(error, SystemExit):
        return CANCELLED, "cancelled"
    return 1, f"{type(error).__name__}: {error}"


def _leave_end(
    job: JobFolder, spec: JobSpec, attempt: int, code: int, message: str, started: float
) -> None:
    write_json(job.end(attempt), JobEnd(
        name=spec.name, attempt=attempt, exit_code=code, seconds=round(time.time() - started, 2),
        host=socket.gethostname(), message=message,
    ))


def _exit_text(code: int) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _own_session() -> None:
    """Leaves the terminal's process group: Ctrl-C is the driver's to handle, in order."""
    if os.getpid() != os.getsid(0):
        with contextlib.suppress(PermissionError):  # already a group leader: nothing to leave
            os.setsid()
    sys.stdout.flush()


def _raise_exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
