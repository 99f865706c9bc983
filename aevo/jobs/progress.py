"""A command that stands still: noticed by files that grow no more, its stacks shown before its end.

Ranks that wait for each other for ever hold their GPUs until NCCL's time-out of half an hour or
the job's limit of many. What a step writes (`metrics.jsonl`, predictions) is looked at from
outside; nothing is read of it, since worker-written code wrote it. Code that wants to look busy can
do so, up to the job's time limit.

Each node shows its own (`aevo.jobs.node`). Not guaranteed: stacks of ranks in a container of the
site's or unconfined on Slurm, which srun starts, and of programs that do not catch SIGABRT (Python
does, told by PYTHONFAULTHANDLER).
"""

import contextlib
import os
import select
import shutil
import signal
import statistics
import subprocess
import time
from pathlib import Path

from aevo.errors import JobError
from aevo.jobs.folder import HUNG
from aevo.records.job import Watchdog
from aevo.sandbox.supervise import tree

FEW = 2  # changes, beside the first, before their median says anything
LOOK_S = 5.0  # most seconds between two looks
DUMP_S = 3.0  # for one process to write its stack and end
TOOL_S = 20.0
MOST = 64  # processes whose stacks are shown
ABORT = 1 << (signal.SIGABRT - 1)  # in the mask of signals that a process catches


class Hang(JobError):
    """A command that writes nothing any more."""

    code = HUNG


class Progress:
    """When a command last wrote, and how often it does."""

    def __init__(self, watchdog: Watchdog | None) -> None:
        self.watchdog = watchdog
        self.pause_s = min(LOOK_S, watchdog.least_s / 4) if watchdog else 3600.0
        self.files = [Path(path) for path in watchdog.files] if watchdog else []
        self.seen, self.since = self._sizes(), time.monotonic()
        self.waits: list[float] = []

    def stands(self) -> str:
        """Why it counts as hung; empty while it does not."""
        if self.watchdog is None:
            return ""
        now, sizes = time.monotonic(), self._sizes()
        if sizes != self.seen:
            self.waits.append(now - self.since)
            self.seen, self.since = sizes, now
        still = now - self.since
        if len(self.waits) <= FEW:  # the first wait is its start's
            first = self.watchdog.first_s
            return f"no step for {still:.0f} s" if first is not None and still > first else ""
        median = statistics.median(self.waits[1:])
        if still > max(self.watchdog.steps * median, self.watchdog.least_s):
            return f"no step for {still:.0f} s, where the median takes {median:.3g} s"
        return ""

    def _sizes(self) -> list[tuple[int, int] | None]:
        return [_size(path) for path in self.files]


def _size(path: Path) -> tuple[int, int] | None:
    """Of a file; of a folder, which a trusted command writes, how many *.jsonl lie below it and how
    many bytes they hold: vLLM's engines write answers in folders of their own."""
    try:
        if not path.is_dir():
            found = path.lstat()
            return found.st_size, found.st_mtime_ns
        sizes = [file.lstat().st_size for file in path.rglob("*.jsonl")]
    except OSError:
        return None
    return len(sizes), sum(sizes)


def show_stacks(child: int) -> None:
    """Every Python process below `child` prints the stacks of its threads and ends, one after the
    other. py-spy, where it is installed, is asked first: it sees more.

    Whoever looks after others (`ranks.py`, the sandbox) is stopped meanwhile: it would end them all
    as soon as the first is gone. The caller kills what is left.
    """
    pids = tree(child)
    handles: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            handles[pid] = os.pidfd_open(pid)
    try:
        parents = [pid for pid in handles if len(tree(pid)) > 1]
        for pid in parents:
            _send(handles[pid], signal.SIGSTOP)
        asked = [pid for pid in reversed(pids) if pid in handles and _catches(pid)]  # leaves first
        for pid in asked[:MOST]:
            rank = _rank(pid)
            print(f"--- stacks of process {pid}{f', rank {rank}' if rank else ''}:", flush=True)
            _ask_tool(pid)
            _send(handles[pid], signal.SIGABRT)
            _send(handles[pid], signal.SIGCONT)
            _await(handles[pid])
    finally:
        for handle in handles.values():
            os.close(handle)


def _send(handle: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):  # it has ended
        signal.pidfd_send_signal(handle, number)


def _ask_tool(pid: int) -> None:
    if tool := shutil.which("py-spy"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                [tool, "dump", "--pid", str(pid)], stdin=subprocess.DEVNULL, timeout=TOOL_S
            )


def _await(handle: int) -> None:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.poll(DUMP_S * 1000)


def _catches(pid: int) -> bool:
    """True if SIGABRT has a handler there: the others would end without a word."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc", str(pid), "status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) & ABORT)
    return False


def _rank(pid: int) -> str:
    with contextlib.suppress(OSError):
        for item in Path("/proc", str(pid), "environ").read_bytes().split(b"\0"):
            if item.startswith(b"RANK="):
                return item[5:].decode(errors="replace")[:8]
    return ""
