"""Leases: locks that end with their holder, however it dies, and that children inherit.

`filelock` closes its descriptor in child processes. A lease must do the opposite: as long as any
process of a job lives, the job is alive and its slot is taken, even if the process that took the
lease was killed. So these few lines use flock directly.
"""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path


class Lease:
    """An exclusive lock on a file, held from `take` until the last holder of `fd` is gone."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self.fd = path, fd

    def release(self) -> None:
        """Gives the lease back now (children that inherited it keep it)."""
        os.close(self.fd)


def unlocked(path: Path) -> Lease:
    """A lease in name only, for filesystems that have no locks."""
    return Lease(path, os.open(path, os.O_RDWR | os.O_CREAT, 0o666))


def take(path: Path) -> Lease | None:
    """The lease on `path`, or None if someone holds it.

    Raises:
        OSError: the filesystem has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        os.close(fd)
        raise
    os.set_inheritable(fd, True)
    return Lease(path, fd)


def held(path: Path) -> bool:
    """True if some live process holds the lease on `path`."""
    if not path.exists():
        return False
    lease = take(path)
    if lease is None:
        return True
    lease.release()
    return False


def take_any(paths: list[Path], poll_s: float, keep_waiting: Callable[[], None]) -> Lease:
    """Waits for one of several leases (slots); calls `keep_waiting` between tries."""
    while True:
        for path in paths:
            lease = take(path)
            if lease is not None:
                return lease
        keep_waiting()
        time.sleep(poll_s)
