"""The last step before a confined command: gives up what is left to give up, then becomes it.

    python -I -S inside.py '{"env": […], …}' -- COMMAND [ARGUMENT …]

Standard library only, and no import of aevo. Inside bubblewrap it adds what bubblewrap does not do:
the system call filter, Landlock's scopes and ports, a limit on processes, an exact environment. As
the kind `landlock` it is the whole sandbox: private namespaces where the kernel grants them, a
read-only view of the file system, then a Landlock domain that grants only the paths it was given.

Any step that fails ends it with FAILED: a command never runs half confined.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
from typing import Any, NoReturn

FAILED = 121
_libc = ctypes.CDLL(None, use_errno=True)
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF, _MOUNT_SETATTR = 444, 445, 446, 442
_NO_NEW_PRIVS, _DEATH_SIGNAL, _SECCOMP, _DROP, _CHILD_SUBREAPER = 38, 1, 22, 24, 36
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_NOSUID, _NODEV, _NOEXEC, _BIND, _REC, _PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_AT_RECURSIVE, _ATTR_RDONLY, _ATTR_NOSUID = 0x8000, 1, 2

# Landlock's rights, by the ABI that brought them
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_MAKE = sum(1 << bit for bit in range(4, 13)) & ~((1 << 6) | (1 << 11))  # all but device nodes
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
RIGHTS = {
    "list": READ_DIR,
    "read": EXECUTE | READ_FILE | READ_DIR,
    "write": EXECUTE | READ_FILE | READ_DIR | WRITE_FILE | _MAKE | REFER | TRUNCATE,
    "device": READ_FILE | WRITE_FILE | READ_DIR | IOCTL_DEV,
}
_BIND_TCP, _CONNECT_TCP = 1, 2
_SCOPES = 3  # abstract unix sockets, signals


def call(number: int, *arguments: Any) -> int:
    """A raw system call; raises OSError with its errno."""
    result = _libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"system call {number}: {os.strerror(code)}")
    return int(result)


def abi() -> int:
    """The version of Landlock that the kernel offers; 0 for none."""
    try:
        return call(_CREATE_RULESET, None, 0, 1)
    except OSError:
        return 0


def restrict(paths: dict[str, list[str]] | None, lowest_port: int | None) -> None:
    """Enters a Landlock domain.

    Args:
        paths: what is granted, by the names of RIGHTS; None leaves the file system alone.
        lowest_port: TCP connections go to this port or above only; None leaves TCP alone.
    """
    version = abi()
    handled = 0
    if paths is not None:
        handled = (1 << 13) - 1 | (REFER if version >= 2 else 0)
        handled |= (TRUNCATE if version >= 3 else 0) | (IOCTL_DEV if version >= 5 else 0)
    ports = _CONNECT_TCP if lowest_port is not None and version >= 4 else 0
    scopes = _SCOPES if version >= 6 else 0
    if not handled and not ports and not scopes:
        return
    words = [handled, *([ports] if version >= 4 else []), *([scopes] if version >= 6 else [])]
    attributes = struct.pack(f"={len(words)}Q", *words)
    ruleset = call(_CREATE_RULESET, attributes, len(attributes), 0)
    for kind, names in (paths or {}).items():
        for name in names:
            _grant(ruleset, name, RIGHTS[kind] & handled)
    if ports and lowest_port is not None:
        for port in range(lowest_port, 65536):
            call(_ADD_RULE, ruleset, 2, struct.pack("=QQ", ports, port), 0)
    call(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _grant(ruleset: int, name: str, rights: int) -> None:
    try:
        handle = os.open(name, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EACCES, errno.ENOTDIR):
            return  # what is not there needs no grant
        raise
    if not os.path.isdir(f"/proc/self/fd/{handle}"):  # noqa: PTH112 (no pathlib: start-up time)
        rights &= _OF_FILES
    call(_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, handle), 0)
    os.close(handle)


def filter_calls(program: bytes) -> None:
    """Loads a system call filter; does nothing for an empty one."""
    if not program:
        return
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    if _libc.prctl(_SECCOMP, 2, head, 0, 0):
        raise OSError(ctypes.get_errno(), "the system call filter was refused")


def drop_capabilities() -> None:
    """Gives up every capability for good; root keeps its uid and loses its powers."""
    for number in range(64):
        _libc.prctl(_DROP, number, 0, 0, 0)
    header, empty = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    if _libc.capset(header, empty):
        raise OSError(ctypes.get_errno(), "capabilities were not dropped")


def namespaces(network: bool) -> bool:
    """Leaves the machine's namespaces if the kernel lets us; False if it does not."""
    uid, gid = os.geteuid(), os.getegid()
    wanted = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | (0 if network else _NEWNET)
    if _libc.unshare(wanted) == 0:
        return True
    if _libc.unshare(wanted | _NEWUSER):
        return False
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123
            file.write(text)
    return True


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    words = [word if word is None else os.fsencode(word) for word in (source, target, kind)]
    if _libc.mount(*words, flags, os.fsencode(data) if data else None):
        number = ctypes.get_errno()
        raise OSError(number, f"mount on {target}: {os.strerror(number)}")


def private_mounts(write: list[str], size: int, masked: list[str]) -> None:
    """Makes all that is mounted read-only but `write`; own /proc, also read-only, and /dev/shm."""
    _mount(None, "/", None, _REC | _PRIVATE)
    for path in write:
        _mount(path, path, None, _BIND | _REC)
    _mount("tmpfs", "/dev/shm", "tmpfs", _NOSUID | _NODEV, f"size={size},mode=1777")
    writable = {"/dev/shm", *(os.path.realpath(path) for path in write)}
    _read_only("/", True)
    for path in writable:
        _read_only(path, False)
    try:
        _mount("proc", "/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    except OSError as error:  # in a container parts of /proc are masked and it cannot be new
        if error.errno != errno.EPERM:
            raise
    for path in masked:
        _mount("/dev/null", path, None, _BIND)
    _read_only("/proc", True)


def _read_only(path: str, yes: bool) -> None:
    flags = (_ATTR_RDONLY | _ATTR_NOSUID, 0) if yes else (_ATTR_NOSUID, _ATTR_RDONLY)
    attributes = struct.pack("=4Q", *flags, 0, 0)
    call(_MOUNT_SETATTR, -100, os.fsencode(path), _AT_RECURSIVE, attributes, len(attributes))


def loopback() -> None:
    """Brings 127.0.0.1 up in a new network namespace: single-rank training speaks to itself."""
    with socket.socket() as handle:
        fcntl.ioctl(handle, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP


def become(rules: dict[str, Any], argv: list[str], isolated: bool) -> NoReturn:
    """Gives up rights in the only order that works, then executes `argv`."""
    tasks = rules.get("processes")
    if tasks and os.geteuid() != 0:
        _limit_tasks(tasks, isolated)
    _libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    drop_capabilities()
    restrict(rules.get("paths"), rules.get("lowest_port"))
    filter_calls(bytes.fromhex(rules["filter" if isolated else "filter_shared"]))
    names = set(rules["env"])
    env = {key: value for key, value in os.environ.items() if key in names}
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; the command decides
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        print(f"aevo sandbox: {argv[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127)


def _limit_tasks(tasks: int, isolated: bool) -> None:
    """RLIMIT_NPROC counts what the user runs in its user namespace, else on the machine.

    It leaves a margin above the limit that the supervisor keeps, so that a tree that grows is
    stopped with a reason instead of starving in silence.
    """
    tasks += max(16, tasks // 8)
    if not isolated:
        tasks += sum(_tasks(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    tasks = tasks if hard == resource.RLIM_INFINITY else min(tasks, hard)
    resource.setrlimit(resource.RLIMIT_NPROC, (tasks, tasks))


def _tasks(pid: str) -> int:
    try:
        if os.stat(f"/proc/{pid}").st_uid != os.getuid():  # noqa: PTH116
            return 0
        return len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208
    except OSError:
        return 0


def _await(child: int) -> NoReturn:
    """Reaps until `child` ends, and leaves as it did."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _end_all(number: int, frame: Any) -> None:
    """Our parent died: ends our children, and theirs as they become ours, until there is none."""
    while True:
        for name in os.listdir("/proc"):  # noqa: PTH208
            if name.isdigit() and _parent(name) == os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    group = os.getpgid(int(name))
                    os.kill(int(name), signal.SIGKILL)
                    if group != os.getpgrp():  # atomic for the group, unlike one by one
                        os.killpg(group, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            os._exit(128 + signal.SIGKILL)


def _parent(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:  # noqa: PTH123
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def landlock(rules: dict[str, Any], argv: list[str]) -> NoReturn:
    """The kind `landlock`: monitor (this process), init of the process namespace, command."""
    isolated = rules["namespaces"] and namespaces(rules["network"])
    if not isolated:  # no process namespace that the kernel would end as a whole: we do it
        _libc.prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.signal(signal.SIGTERM, _end_all)
        _libc.prctl(_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
    child = os.fork()
    if child:
        _await(child)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _libc.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if isolated:
        private_mounts(rules["paths"]["write"], rules["tmp_bytes"], rules["masked"])
        rules["paths"]["write"].append("/dev/shm")
        if not rules["network"]:
            loopback()
        os.chdir(rules["cwd"])  # the old handle leads to the mount from before
    child = os.fork()
    if child:
        _await(child)
    _libc.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    os.setsid()
    become(rules, argv, isolated)


def main(rules: dict[str, Any], argv: list[str]) -> None:
    """Confines this process further as `rules` say, and becomes `argv`."""
    os.chdir(rules["cwd"])
    if rules["kind"] == "landlock":
        _libc.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        landlock(rules, argv)
    become(rules, argv, isolated=True)


if __name__ == "__main__":
    _at = sys.argv.index("--")
    try:
        main(json.loads(sys.argv[1]), sys.argv[_at + 1 :])
    except OSError as error:
        print(f"aevo sandbox: not confined, so not run: {error}", file=sys.stderr, flush=True)
        os._exit(FAILED)
