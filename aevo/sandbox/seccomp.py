"""The system call filter, as a classic BPF program; a pure function of the machine's type.

It takes away what no training code needs and what has opened sandboxes before: new namespaces and
mounts, kernel keyrings, io_uring (which walks past socket filters), bpf, modules, set-user-id
files, typing into the terminal, memory that belongs to no process, leases on files, and every kind
of socket that is not asked for (AF_VSOCK and AF_ALG are not confined by a network namespace). On a
machine type that is not in the table there is no filter.
"""

import errno
import platform
import socket
import struct

# name: (x86_64, aarch64); None where a machine type does not have the call
DENIED = {
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "iopl": (172, None),
    "ioperm": (173, None),
    "vhangup": (153, 58),
    # Memory that is no process's, and queues that outlive theirs where there are no namespaces.
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_secret": (447, 447),
}
# Their arguments lie in memory, out of a filter's sight: libc falls back to the older call.
ABSENT = {"clone3": (435, 435), "openat2": (437, 437)}
# A file in memory that no limit of memory sees, and that can be sent away over a socket. Drivers of
# GPUs need it; all else has temporary files.
NAMELESS = {"memfd_create": (319, 279)}
# Landlock does not govern who is told of what happens in a folder.
WATCHES = {"inotify_add_watch": (254, 27), "fanotify_mark": (301, 263)}
# Landlock does not govern these: where nothing else makes the file system read-only they are
# answered with success and do nothing, so that copying a tree works and harms nobody.
IGNORED = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}
MODE = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2}  # which argument is the mode
MAKE = {"creat": (85, None, 1), "mknod": (133, None, 1), "mknodat": (259, 33, 2)}  # likewise
OPEN = {"open": (2, None, 1), "openat": (257, 56, 2)}  # last: which argument is the flags
CREATES = 0o20000100  # O_CREAT, and what makes O_TMPFILE more than a folder
CLONE, IOCTL, SOCKET = (56, 220), (16, 29), (41, 198)
FCNTL, SETSOCKOPT = (72, 25), (54, 208)
# Who holds a lease on a file makes whoever opens it wait; who is notified learns of others' work.
LEASES = (1024, 1026)  # F_SETLEASE, F_NOTIFY
BUFFERS = (7, 8)  # SO_SNDBUF, SO_RCVBUF: memory of the kernel's, which is counted at its usual size
# Where processes of others can be named: these may mean the caller alone, whose number is 0 (for
# the two of which the first says what is meant: a process). Limits on its processor time
# would end another's process, a priority or a processor of its choice would starve it.
OF_OTHERS = {
    "prlimit64": (302, 261, 0),
    "sched_setaffinity": (203, 122, 0),
    "sched_setscheduler": (144, 119, 0),
    "sched_setparam": (142, 118, 0),
    "sched_setattr": (314, 274, 0),
    "migrate_pages": (256, 238, 0),
    "move_pages": (279, 239, 0),
    "setpriority": (141, 140, 1),
    "ioprio_set": (251, 30, 1),
}
KINDS = {"setpriority": 0, "ioprio_set": 1}  # how "one process" is said
NAMESPACES = 0x7E020080  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET} and NEWTIME
TERMINAL = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
SET_ID = 0o6000
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
INTERNET = (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)

_LOAD, _EQUAL, _SET, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCH = 0, 4


def program(
    families: tuple[int, ...], ignore_attributes: bool, watches: bool = True, nameless: bool = False
) -> bytes:
    """The filter that admits sockets of `families` only; empty where the machine is unknown.

    Args:
        ignore_attributes: there are no namespaces: changing modes, owners, times and extended
            attributes does nothing, and processes of others cannot be set anything.
        watches: being told of what happens in a folder is admitted.
        nameless: so are files in memory.
    """
    machine = platform.machine()
    if machine not in AUDIT:
        return b""
    column = list(AUDIT).index(machine)
    out = [
        _op(_LOAD, _ARCH),
        _op(_EQUAL, AUDIT[machine], 1, 0),
        _no(errno.ENOSYS),
        _op(_LOAD, _NUMBER),
        _op(_AT_LEAST, 0x40000000, 0, 1),
        _no(errno.ENOSYS),
    ]
    for table, answer in (
        (DENIED, errno.EPERM),
        (ABSENT, errno.ENOSYS),
        ({} if nameless else NAMELESS, errno.ENOSYS),
        ({} if watches else WATCHES, errno.EACCES),
        (IGNORED if ignore_attributes else {}, 0),
    ):
        for numbers in table.values():
            out += _when(numbers[column], [_no(answer)])
    for name, (x86, arm64, position) in (OF_OTHERS if ignore_attributes else {}).items():
        own = [_op(_LOAD, _argument(position)), _op(_EQUAL, 0, 1, 0), _no(errno.EPERM)]
        if name in KINDS:
            own = [_op(_LOAD, _argument(0)), _op(_EQUAL, KINDS[name], 1, 0), _no(errno.EPERM), *own]
        out += _when((x86, arm64)[column], [*own, _op(_RETURN, _ALLOW)])
    for name, position in MODE.items():
        out += _when(IGNORED[name][column], _with_bits(position, SET_ID))
    for intel, arm, flags in OPEN.values():
        creates = [_op(_LOAD, _argument(flags)), _op(_SET, CREATES, 1, 0), _op(_RETURN, _ALLOW)]
        out += _when((intel, arm)[column], creates + _with_bits(flags + 1, SET_ID))
    for intel, arm, position in MAKE.values():
        out += _when((intel, arm)[column], _with_bits(position, SET_ID))
    out += _when(CLONE[column], _with_bits(0, NAMESPACES & ~0x80))  # low bits: the exit signal
    out += _when(IOCTL[column], _with_one_of(1, TERMINAL, errno.EPERM))
    out += _when(FCNTL[column], _with_one_of(1, LEASES, errno.EPERM))
    of_sockets = [_op(_LOAD, _argument(1)), _op(_EQUAL, socket.SOL_SOCKET, 1, 0)]
    ignored = _with_one_of(2, BUFFERS, 0)
    out += _when(SETSOCKOPT[column], [*of_sockets, _op(_RETURN, _ALLOW), *ignored])
    admitted = [_op(_LOAD, _argument(0))]
    for family in families:
        admitted += [_op(_EQUAL, int(family), 0, 1), _op(_RETURN, _ALLOW)]
    out += _when(SOCKET[column], [*admitted, _no(errno.EACCES)])
    return b"".join([*out, _op(_RETURN, _ALLOW)])


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _no(number: int) -> bytes:
    return _op(_RETURN, _ERRNO | number)


def _argument(position: int) -> int:
    """Offset of the low half of an argument (both machine types are little-endian)."""
    return 16 + 8 * position


def _when(number: int | None, body: list[bytes]) -> list[bytes]:
    """`body` for the system call `number`; it must end in a return."""
    return [] if number is None else [_op(_EQUAL, number, 0, len(body)), *body]


def _with_one_of(position: int, values: tuple[int, ...], answer: int) -> list[bytes]:
    out = [_op(_LOAD, _argument(position))]
    for value in values:
        out += [_op(_EQUAL, value, 0, 1), _no(answer)]
    return [*out, _op(_RETURN, _ALLOW)]


def _with_bits(position: int, bits: int) -> list[bytes]:
    return [
        _op(_LOAD, _argument(position)),
        _op(_SET, bits, 0, 1),
        _no(errno.EPERM),
        _op(_RETURN, _ALLOW),
    ]
