"""What runs inside a job: wait for its turn, run its commands, leave how it ended.

    python -m aevo.jobs.execute FOLDER ATTEMPT          (the last line of a job's sbatch script)

Exit codes tell the truth: an attempt that did not leave the job's product fails, whatever its
commands returned.

On Slurm the same submission may start many times: after a requeue by an administrator, a
preemption, a node failure, or by its own wish when its time limit comes. Each start is an attempt
with a folder of its own.
"""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from types import FrameType

from aevo.cli import report
from aevo.errors import AevoError, JobError
from aevo.files import lease
from aevo.files.documents import read
from aevo.files.lease import Lease
from aevo.files.untrusted import scratch_folder, there
from aevo.jobs import slurm
from aevo.jobs.attempt import TIME_LIMIT, Attempt
from aevo.jobs.confined import confined
from aevo.jobs.ending import cancel_owned
from aevo.jobs.environment import environment, kernels
from aevo.jobs.folder import CANCELLED, INTERRUPTED, JobFolder, last_attempt
from aevo.jobs.launch import argv, node_of_its_own, on_this_machine, ranks_of
from aevo.jobs.nodes import note_hang
from aevo.jobs.owner import Watch
from aevo.jobs.progress import Hang, Progress, show_stacks
from aevo.jobs.state import observe
from aevo.records.job import JobSpec, Step

# A dependency whose process died is given this long to be submitted again before it counts as
# ended (locally the driver resubmits within a second or two).
GRACE_S = 20.0
POLL_S = 0.25
# A new attempt waits this long for processes of the one before it, which a node that lost its
# daemon may still be running.
TAKEOVER_S = 600.0
# A training writes its result last. What goes on after it is ended: it would hold its slot.
STACKS_S = 60.0  # for all nodes to show them
RESULT_GRACE_S, RESULT_POLL_S = 30.0, 1.0


class TimeLimit(BaseException):
    """Slurm's warning: the time limit is near."""


class Terminated(BaseException):
    """SIGTERM: someone ends the job, or Slurm takes its node away."""


def run_job(folder: str, attempt: int, slots: list[str]) -> int:
    """Runs the job in `folder`; the function that submitit calls, and `main` on Slurm.

    Args:
        folder: the job's folder.
        attempt: the attempt as submitted; a requeued one opens the next.
        slots: lock files of the machine's slots; empty where a scheduler gives out resources.

    Returns:
        0. Any failure raises, so that the attempt's process exits non-zero.

    Raises:
        JobError: a command failed, ran out of time, or left no product.
    """
    job = JobFolder(Path(folder))
    spec = read(JobSpec, job.spec)
    _own_session()
    signal.signal(signal.SIGTERM, _on_term)
    signal.signal(signal.SIGUSR2, _on_limit)
    alive = _take_over(job, spec)
    here = _open_attempt(job, spec, attempt)
    try:
        _run(here, [Path(slot) for slot in slots], alive)
    except BaseException as error:
        for number in (signal.SIGTERM, signal.SIGUSR2):  # from here on we end in order
            signal.signal(number, signal.SIG_IGN)
        code, message = _judge(error, spec)
        if not isinstance(error, AevoError | TimeLimit | Terminated | KeyboardInterrupt):
            traceback.print_exc()
        here.end(code, message, here.comes_back(code))
        if code == CANCELLED and spec.kind == "worker":
            cancel_owned(job)
        raise JobError(f"{spec.name}: {message}") from error
    here.end(0)
    return 0


def _take_over(job: JobFolder, spec: JobSpec) -> Lease:
    """The job's lease. On Slurm the attempt before may still be dying somewhere; elsewhere
    a second attempt is a mistake."""
    end = time.monotonic() + (TAKEOVER_S if spec.queue is not None else 0.0)
    while True:
        try:
            alive = lease.take(job.alive)
        except OSError as error:
            if spec.queue is None:
                raise
            print(
                f"warning: {job.alive}: {error.strerror}; mount the filesystem with flock, else "
                "an attempt that a lost node still runs is not noticed",
                flush=True,
            )
            return lease.unlocked(job.alive)
        if alive is not None:
            return alive
        if time.monotonic() >= end:
            raise JobError(f"{spec.name}: another attempt of this job is alive")
        time.sleep(1.0)


def _open_attempt(job: JobFolder, spec: JobSpec, submitted: int) -> Attempt:
    """This start; on Slurm its log becomes our output."""
    here = Attempt(job, spec, submitted, time.time())
    if spec.queue is None:
        return here
    lines = job.lines()
    if any(line.event == "started" and line.attempt >= submitted for line in lines):
        here = replace(here, number=last_attempt(lines) + 1)
        here.note("requeued")
    folder = job.open_attempt(here.number)
    sys.stdout.flush()
    sys.stderr.flush()
    with (folder / "log.txt").open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    return here


def _run(here: Attempt, slots: list[Path], alive: Lease) -> None:
    spec = here.spec
    here.enter("waiting" if spec.after or spec.needs else "queued")
    _await_dependencies(spec)
    inherited = [alive.fd]
    if slots and spec.resources.slots:
        here.enter("queued")
        slot = lease.take_any(slots, POLL_S, lambda: None)
        inherited.append(slot.fd)
    here.enter("running")
    here.note("started")
    if there(spec.product):
        return
    if spec.entry is not None:
        module, function = spec.entry.split(":")
        getattr(importlib.import_module(module), function)(spec.arguments)
    deadline = time.monotonic() + 60 * spec.resources.time_min
    for step in spec.steps:
        # Its own for each: what data.build hid there, a training would read, and no search see.
        with scratch_folder("aevo-") as scratch:
            _run_step(here, step, inherited, deadline, str(scratch))
    if not there(spec.product):
        raise JobError(f"ended without leaving {spec.product}")


def _await_dependencies(spec: JobSpec) -> None:
    """Waits until the jobs before have ended, however they ended: whether they left what this
    one needs, it finds out for itself. On Slurm this is a second look: Slurm takes an id it has
    forgotten for a satisfied one, and a job may have been submitted again since."""
    gone_since: dict[str, float] = {}
    pending = [*spec.after, *spec.needs]
    while pending:
        for folder in list(pending):
            state = observe(JobFolder(Path(folder)))
            if state.phase == "finished" or (spec.queue is not None and not state.alive):
                pending.remove(folder)
            elif state.alive:
                gone_since.pop(folder, None)
            elif time.monotonic() - gone_since.setdefault(folder, time.monotonic()) > GRACE_S:
                pending.remove(folder)
        if pending:
            time.sleep(POLL_S)


def _run_step(
    here: Attempt, step: Step, inherited: list[int], deadline: float, scratch: str
) -> None:
    spec = here.spec
    print(f"$ {' '.join(argv(spec, step))}", flush=True)
    given = dict(spec.launch.environment)
    if step.cache is not None:
        # A folder that the operator names may be each node's own, and is made on this one alone.
        place, caches = kernels(step.cache, given if spec.resources.nodes == 1 else {})
        step, given = _with_cache(step, place), given | caches
    variables = environment(os.environ, step.env, spec.resources.cpus, scratch, given)
    if node_of_its_own(spec, step):  # each node makes its sandbox and starts its ranks in it
        variables["TMPDIR"] = os.environ.get("TMPDIR", "/tmp")
        command = argv(spec, step)
    elif on_this_machine(spec, step):
        command = confined(spec, step, ranks_of(spec, step), scratch, variables)
    else:
        command = argv(spec, step, confined(spec, step, step.argv, scratch, variables))
    if command[0] == "srun":  # it needs to know its job; the rank it starts does not
        variables |= {
            name: value
            for name, value in os.environ.items()
            if name.startswith("SLURM_") and name != "SLURM_CPU_BIND"
        }
    here.job.stacks.unlink(missing_ok=True)
    child = subprocess.Popen(
        command,
        cwd=step.cwd,
        stdin=subprocess.DEVNULL,
        pass_fds=inherited,
        start_new_session=True,
        env=variables,
    )
    watch, result, progress = Watch(spec), _Result(spec, step), Progress(spec.watchdog)
    try:
        here.enter("running", child.pid)
        while child.poll() is None:
            if time.monotonic() > deadline:
                raise JobError(f"TIMEOUT after {spec.resources.time_min} min: {step.argv[2]}")
            watch.look()
            if why := progress.stands():
                note_hang(spec)
                _show_stacks(here.job, child, asks=node_of_its_own(spec, step))
                raise Hang(f"HANG: {step.argv[2]}: {why}")
            if result.overdue():
                print(
                    f"ended: it went on for {RESULT_GRACE_S:g} s after it had written "
                    f"{spec.product}",
                    flush=True,
                )
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                left_s = max(0.1, deadline - time.monotonic())
                pause_s = min(watch.pause_s, result.pause_s, progress.pause_s)
                child.wait(timeout=min(pause_s, left_s))
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if child.returncode != 0:
        raise JobError(f"`{' '.join(step.argv[1:3])}` ended with {_exit_text(child.returncode)}")


def _show_stacks(job: JobFolder, child: "subprocess.Popen[bytes]", asks: bool) -> None:
    """Of the step's processes: here, or by the nodes that run them, which are not below us."""
    if not asks:
        show_stacks(child.pid)
        return
    job.stacks.touch()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(timeout=STACKS_S)


class _Result:
    """Whether a step of worker-written code goes on although it has written the job's product."""

    def __init__(self, spec: JobSpec, step: Step) -> None:
        self.product = spec.product if step.confine is not None else None
        self.pause_s = RESULT_POLL_S if self.product else 3600.0
        self.since: float | None = None

    def overdue(self) -> bool:
        """True once the product has been there for RESULT_GRACE_S."""
        if self.product is None or not there(self.product):
            self.since = None
            return False
        self.since = self.since or time.monotonic()
        return time.monotonic() - self.since > RESULT_GRACE_S


def _with_cache(step: Step, place: str) -> Step:
    """The step with a folder of kernels that it may write; it is there afterwards."""
    Path(place).mkdir(parents=True, exist_ok=True)
    if step.confine is None:
        return step
    confine = step.confine.model_copy(update={"write": [*step.confine.write, place]})
    return step.model_copy(update={"confine": confine})


def _judge(error: BaseException, spec: JobSpec) -> tuple[int, str]:
    if isinstance(error, AevoError):
        return error.code, str(error)
    if isinstance(error, TimeLimit):
        return TIME_LIMIT, f"TIMEOUT after {spec.resources.time_min} min"
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if isinstance(error, Terminated):
        return _judge_term(spec)
    if isinstance(error, SystemExit):
        return 1, f"called sys.exit({error.code})"
    return 1, f"{type(error).__name__}: {error}"


def _judge_term(spec: JobSpec) -> tuple[int, str]:
    """Cancelled, or taken off its node by Slurm: preempted, requeued by hand. Slurm has counted
    the restart by then; if it does not answer, the job is not called cancelled."""
    if spec.queue is None:
        return CANCELLED, "cancelled"
    count = slurm.restarts(os.environ.get("SLURM_JOB_ID", ""))
    if count is None or count > int(os.environ.get("SLURM_RESTART_COUNT", "0")):
        return INTERRUPTED, "requeued by Slurm"
    return CANCELLED, "cancelled"


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


def _on_term(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; Slurm repeats it
    raise Terminated


def _on_limit(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    raise TimeLimit


def main(arguments: list[str]) -> None:
    """The command line of a job's script."""
    folder, attempt = arguments
    try:
        run_job(folder, int(attempt), [])
    except AevoError as error:
        report(error)
        sys.exit(error.code)


if __name__ == "__main__":
    main(sys.argv[1:])
