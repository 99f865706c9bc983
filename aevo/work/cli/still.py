"""Holds an agent's processes still while trusted code looks at their fork.

A process that lives can put a link where a folder was, between a look at a path and its use, and
have us read or write elsewhere with our rights. So every process below the agent's sandbox is
stopped for as long as that takes, and goes on afterwards.

Guaranteed: while the block runs, no process of the session runs. Not guaranteed: that a system call
that was under way has ended in a moment; what cannot be held still is refused.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

from aevo.errors import AevoError
from aevo.sandbox.supervise import tree

WAIT_S, POLL_S = 10.0, 0.005
AT_REST = frozenset("TtZX")  # stopped, traced, dead


class RestlessError(AevoError):
    """Processes that cannot be held still; the text goes back to the agent."""


class Stillness:
    """What may be held still: the processes below one, while a session lives. May be entered by
    several threads at a time; the last to leave lets go."""

    def __init__(self) -> None:
        self.root: int | None = None  # the sandbox's supervisor, which goes on watching
        self._lock, self._inside = threading.Lock(), 0
        self._held: dict[int, int] = {}  # process descriptors by number

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Raises RestlessError where they do not come to rest."""
        with self._lock:
            if self._inside == 0 and self.root is not None:
                self._stop(self.root)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._go_on()

    def _stop(self, root: int) -> None:
        until = time.monotonic() + WAIT_S
        while True:
            known = set(self._held)
            for pid in tree(root)[1:]:
                if pid not in known:
                    with contextlib.suppress(OSError):
                        self._held[pid] = os.pidfd_open(pid)
            # A number may have been given anew before it was opened: only what is below us still.
            below = tree(root)[1:]
            for pid in below:
                if pid in self._held:
                    with contextlib.suppress(OSError):
                        signal.pidfd_send_signal(self._held[pid], signal.SIGSTOP)
            if set(below) <= set(self._held) and all(map(_rests, below)):
                return
            if time.monotonic() > until:
                self._go_on()
                raise RestlessError(
                    "your processes do not come to rest", "end them, then try again"
                )
            time.sleep(POLL_S)

    def _go_on(self) -> None:
        for handle in self._held.values():
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(handle, signal.SIGCONT)
            os.close(handle)
        self._held = {}


def _rests(pid: int) -> bool:
    """True if no thread of a process runs."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208
    except OSError:
        return True
    return all(_state(pid, thread) in AT_REST for thread in threads)


def _state(pid: int, thread: str) -> str:
    try:
        with open(f"/proc/{pid}/task/{thread}/stat", errors="replace") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "X"
