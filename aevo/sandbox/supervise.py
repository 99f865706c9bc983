"""Runs one confined command and watches it from outside; a script of its own.

    python -I -S supervise.py '{"processes": 64, …}' -- COMMAND [ARGUMENT …]

Standard library only, and no import of aevo: it has to start within milliseconds. It is the parent
of bwrap (or of the Landlock launcher), never confined itself, and

- hands the command stdin, stdout and stderr and no other descriptor. Leases given with `pass_fds`
  stay with this process, which lives exactly as long as the command;
- sets limits that processes inherit, and counts what has no such limit: processes and threads of
  the tree, its memory, the growth of its files and of its log;
- stops the whole tree when one is exceeded, says so in one line on stderr and exits with STOPPED;
- passes SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2 on to the command;
- ends when its parent ends, and the command with it;
- exits as the command did: its code, or 128 + the signal that ended it; TIMED_OUT after `wall`
  seconds;
- writes the processor seconds of the whole tree to the descriptor `account`, if there is one.

Not guaranteed: the counts are taken every POLL_S (processes, log) or SLOW_S (memory, disk), so a
tree may be over for that long. RLIMIT_NPROC holds in between, except for root, whom Linux exempts:
root's supervisor runs before all others instead, so that no fork bomb keeps it from counting.
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

POLL_S, SLOW_S = 0.03, 0.5
STOPPED = 122  # exit code of a command that was stopped for exceeding a limit
TIMED_OUT = 124  # of one that was stopped because its time was up
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
GIB = 1 << 30
SOCKETS, SOCKET_BYTES = 1000, 208 << 10  # how many are free, and what the kernel may hold for one
DEPTH = 2  # the command is the child of the child of our child: monitor, init, command
_SUBREAPER, _KEYCTL = 36, {"x86_64": 250, "aarch64": 219}


def usage(paths: Iterable[str], shut: set[str] | None = None) -> int:
    """Bytes on disk below `paths`, at least 4 KiB an entry; links are not followed.

    What vanishes or cannot be read while it is counted counts as nothing.

    Args:
        shut: gets the folders that cannot be looked into: without rights, or too deep to be named.
    """
    total, pending = 0, list(paths)
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    try:
                        total += max(4096, entry.stat(follow_symlinks=False).st_blocks * 512)
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(entry.path)
                    except OSError as error:
                        _note(error, folder, shut)
        except OSError as error:
            _note(error, folder, shut)
    return total


def _note(error: OSError, folder: str, shut: set[str] | None) -> None:
    if shut is not None and error.errno in (errno.EACCES, errno.ENAMETOOLONG):
        shut.add(folder)


def tree(root: int) -> list[int]:
    """`root` and all its descendants, as process numbers.

    `/proc/PID/task/TID/children` needs no walk over the whole machine; where the kernel lacks it,
    parents are read from every process there is.
    """
    if not os.path.exists(f"/proc/{root}/task/{root}/children"):  # noqa: PTH110 (no pathlib here)
        return _tree_by_parent(root)
    found, pending = [], [root]
    while pending:
        pid = pending.pop()
        found.append(pid)
        for task in _names(f"/proc/{pid}/task"):
            pending += map(int, _text(f"/proc/{pid}/task/{task}/children").split())
    return found


def _tree_by_parent(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for name in _names("/proc"):
        if name.isdigit():
            fields = _text(f"/proc/{name}/stat").rpartition(")")[2].split()
            if fields:
                children.setdefault(int(fields[1]), []).append(int(name))
    found, pending = [], [root]
    while pending:
        pid = pending.pop()
        found.append(pid)
        pending += children.get(pid, [])
    return found


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 (no pathlib here: start-up time)
    except OSError:
        return []


def _text(path: str) -> str:
    try:
        # a process gives itself a name of any bytes
        with open(path, errors="replace") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""


class Tally:
    """Counts what the tree below `root` uses against the limits."""

    def __init__(self, root: int, limits: dict[str, Any]) -> None:
        self.root, self.limits = root, limits
        self.write = limits.get("write", [])
        self.disk_before, self.log_before = usage(self.write), _log_size()
        self.machine, self.slow_at, self.slow_for = 0, 0.0, 0.0
        self.shut: set[str] = set()  # folders that could not be looked into, at the last look
        self.ticks: dict[tuple[int, str], int] = {}  # of each process, by number and start
        self.waited = 0  # of all that lived at the last look and of what they had waited for

    def over(self) -> str | None:
        """What is exceeded, in words; None if nothing is."""
        machine = int(_text("/proc/loadavg").split()[3].split("/")[1])  # tasks of the machine
        slow = time.monotonic() >= self.slow_at
        allowed = self.limits.get("processes")
        # A walk over the tree is dear, this one number is not: walk when it has jumped.
        if allowed and (slow or machine > self.machine + allowed // 4):
            self.machine = machine
            tasks = sum(max(1, len(_names(f"/proc/{pid}/task"))) for pid in tree(self.root))
            if tasks - DEPTH > allowed:
                return f"more than {allowed} processes and threads"
        # One look at an open file costs nothing, and a log grows by gigabytes a second.
        flood = self._log()
        if flood or not slow:
            return flood
        begun = time.monotonic()
        found = self._memory() or self._disk() or self._processor()
        # On a slow file system counting must not become the load it is to prevent.
        self.slow_at = time.monotonic() + max(SLOW_S, 5 * (time.monotonic() - begun))
        return found

    def processor_s(self) -> float:
        """Processor seconds of the tree so far.

        The kernel adds those of a process to its parent when it is waited for, and forgets them
        where the parent ignores its children: so what each was seen to use counts too.
        """
        waited = 0
        for pid in tree(self.root)[1:]:
            fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
            if len(fields) > 19:
                own, below = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
                key = pid, fields[19]
                self.ticks[key] = max(own, self.ticks.get(key, 0))
                waited += own + below
        self.waited = max(self.waited, waited)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        seen = max(self.waited, sum(self.ticks.values())) / os.sysconf("SC_CLK_TCK")
        return max(seen, used.ru_utime + used.ru_stime)

    def _processor(self) -> str | None:
        allowed = self.limits.get("total_cpu")
        if not allowed and not self.limits.get("account"):
            return None
        used = self.processor_s()  # also without a limit: what is not seen now is lost
        if not allowed or used <= allowed:
            return None
        return f"more than {allowed} s of processor time"

    def _memory(self) -> str | None:
        allowed = self.limits.get("memory")
        if not allowed:
            return None
        pids = tree(self.root)
        held = self._held(pids)
        if _resident(pids, "status", "Rss", *held) <= allowed:
            return None
        # Forked processes share pages: the proportional figure is just, but dear to take.
        if 0 < _resident(pids, "smaps_rollup", "Pss_", *held) <= allowed:
            return None
        return f"more than {allowed / GIB:g} GiB of memory"

    def _held(self, pids: list[int]) -> tuple[int, int]:
        """Bytes in files without a name that lie in memory, and in buffers of sockets: no process
        need have them mapped, so they are in no process's figures."""
        disks = {os.stat(path).st_dev for path in self.write}  # noqa: PTH116
        files, sockets = {}, set()
        for file in _open_files(pids):
            if stat.S_ISSOCK(file.st_mode):
                sockets.add(file.st_ino)
            elif file.st_nlink == 0 and stat.S_ISREG(file.st_mode) and file.st_dev not in disks:
                files[file.st_dev, file.st_ino] = file.st_blocks * 512
        return sum(files.values()), SOCKET_BYTES * max(0, len(sockets) - SOCKETS)

    def _disk(self) -> str | None:
        allowed = self.limits.get("disk")
        if not allowed:
            return None
        before, self.shut = self.shut, set()
        used = usage(self.write, self.shut) + self._deleted() - self.disk_before
        if used > allowed:
            return f"more than {allowed / GIB:g} GiB written"
        # Once is an accident: a folder is made, and then opened to us.
        return "a folder that cannot be looked into" if before & self.shut else None

    def _deleted(self) -> int:
        """Bytes of files that are deleted but held open on the disks that may be written."""
        disks, found = {os.stat(path).st_dev for path in self.write}, {}  # noqa: PTH116
        for file in _open_files(tree(self.root)):
            if file.st_nlink == 0 and stat.S_ISREG(file.st_mode) and file.st_dev in disks:
                found[file.st_dev, file.st_ino] = file.st_blocks * 512
        return sum(found.values())

    def _log(self) -> str | None:
        allowed = self.limits.get("log")
        if not allowed or _log_size() - self.log_before <= allowed:
            return None
        return f"more than {allowed / GIB:g} GiB of output"


def _open_files(pids: list[int]) -> Iterator[os.stat_result]:
    for pid in pids:
        for number in _names(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                yield os.stat(f"/proc/{pid}/fd/{number}")  # noqa: PTH116


def _resident(pids: list[int], file: str, name: str, nameless: int, buffers: int) -> int:
    """Memory of processes; shared memory that has no name counts once, mapped or not."""
    anonymous = sum(_field(f"/proc/{pid}/{file}", f"{name}Anon:") for pid in pids)
    shared = sum(_field(f"/proc/{pid}/{file}", f"{name}Shmem:") for pid in pids)
    return anonymous + max(shared, nameless) + buffers


def _log_size() -> int:
    files = {}
    for number in (1, 2):
        file = os.fstat(number)
        if stat.S_ISREG(file.st_mode):
            files[file.st_dev, file.st_ino] = file.st_size
    return sum(files.values())


def _field(path: str, name: str) -> int:
    """A figure in kB of a status file, in bytes; 0 where there is none."""
    for line in _text(path).splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def kill_tree(child: int) -> None:
    """Ends everything below us. The kernel ends a process namespace as a whole; where there is
    none, we are the reaper of what the command left behind and go on until nothing is left."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    while True:
        groups = set()
        for pid in tree(os.getpid())[1:]:
            with contextlib.suppress(ProcessLookupError):
                groups.add(os.getpgid(pid))
                os.kill(pid, signal.SIGKILL)
        # One call for a whole group is atomic: a fork bomb cannot outrun it, but can a walk.
        for group in groups - {os.getpgrp()}:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def set_limits(limits: dict[str, Any]) -> None:
    """Limits that the kernel keeps for each process; below what the caller had, never above."""
    wanted = {resource.RLIMIT_CORE: 0}
    # Twice: private mappings of files count too. The sum of resident memory is what Tally counts.
    data = None if limits.get("devices") or not limits.get("memory") else 2 * limits["memory"]
    for name, value in (
        (resource.RLIMIT_CPU, limits.get("cpu")),
        (resource.RLIMIT_DATA, data),
        (resource.RLIMIT_FSIZE, limits.get("file")),
        (resource.RLIMIT_NOFILE, limits.get("open_files")),
    ):
        if value:
            wanted[name] = int(value)
    for name, value in wanted.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # Over the soft limit comes a signal (SIGXCPU), over the hard one SIGKILL.
        resource.setrlimit(name, (value, value + 2 if name == resource.RLIMIT_CPU else value))


def _start(argv: list[str], limits: dict[str, Any]) -> int:
    """Forks and executes `argv` with stdio alone; its pid."""
    given, hidden = None, limits.get("hidden", 0)
    if hidden:  # bwrap reads its options from a descriptor: no path of ours in /proc/1/cmdline
        given = os.memfd_create("options", 0)
        os.write(given, b"".join(os.fsencode(word) + b"\0" for word in argv[1 : 1 + hidden]))
        os.lseek(given, 0, os.SEEK_SET)
        argv = [argv[0], "--args", str(given), *argv[1 + hidden :]]
    child = os.fork()
    if child:
        if given is not None:
            os.close(given)
        return child
    try:
        os.setsid()  # a signal to our group reaches us alone: we pass it on to the command
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        for number in (*FORWARDED, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        last = max((int(name) for name in _names("/proc/self/fd")), default=3) + 1
        for handle in range(3, last):
            if handle != given:
                with contextlib.suppress(OSError):
                    os.close(handle)
        set_limits(limits)
        os.execvp(argv[0], argv)
    except OSError as error:
        print(f"aevo sandbox: cannot run {argv[0]}: {error}", file=sys.stderr, flush=True)
    os._exit(127)


def _run_first() -> None:
    """Real-time priority, which the kernel gives to root alone, for this process and no child."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def _forward(child: int, number: int) -> None:
    pid = child
    for _ in range(DEPTH):
        below = [int(word) for word in _text(f"/proc/{pid}/task/{pid}/children").split()]
        below = below or [other for other in _tree_by_parent(pid) if other != pid]
        if not below:
            break
        pid = below[0]
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def main(limits: dict[str, Any], argv: list[str]) -> int:
    """Runs `argv` to its end; the exit code to leave with."""
    begun, wall = time.monotonic(), limits.get("wall")
    libc, parent, arrived = ctypes.CDLL(None), os.getppid(), []
    libc.prctl(_SUBREAPER, 1, 0, 0, 0)
    if os.uname().machine in _KEYCTL:  # a session keyring of its own: no tickets of ours
        libc.syscall(_KEYCTL[os.uname().machine], 1, None)
    for number in FORWARDED:
        signal.signal(number, lambda number, frame: arrived.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    child = _start(argv, limits)
    _run_first()
    watch = Tally(os.getpid(), limits)
    try:
        return _watch(child, watch, parent, arrived, begun + wall if wall else None)
    finally:
        if limits.get("account"):
            os.write(limits["account"], f"{watch.processor_s():.2f}".encode())


def _watch(child: int, watch: Tally, parent: int, arrived: list[int], until: float | None) -> int:
    """Until the command has ended, or is ended; the exit code to leave with."""
    while True:
        signal.sigtimedwait({signal.SIGCHLD}, POLL_S)
        while arrived:
            _forward(child, arrived.pop(0))
        done, status = _reap(child)
        if done:
            kill_tree(child)
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if os.getppid() != parent:
            kill_tree(child)
            return 128 + signal.SIGKILL
        if until is not None and time.monotonic() > until:
            watch.processor_s()
            kill_tree(child)
            return TIMED_OUT
        over = watch.over()
        if over:
            kill_tree(child)
            print(f"aevo sandbox: stopped: {over}", file=sys.stderr, flush=True)
            return STOPPED


def _reap(child: int) -> tuple[bool, int]:
    """True and its status if `child` has ended; reaps what was left to us besides."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in (0, child):
            return pid == child, status


if __name__ == "__main__":
    _at = sys.argv.index("--")
    sys.exit(main(json.loads(sys.argv[1]), sys.argv[_at + 1 :]))
