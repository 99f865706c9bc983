"""No GPU job outlives its candidate.

A training or evaluation on Slurm is a job of its own; its worker may be cancelled, fail for good
or lose its node without being able to end it. So the job itself looks, now and then, whether its
worker is still on its way.
"""

import time
from pathlib import Path

from aevo.errors import AevoError
from aevo.files.untrusted import there
from aevo.jobs.folder import CANCELLED, JobFolder
from aevo.jobs.state import observe
from aevo.records.job import JobSpec


class OwnerGone(AevoError):
    """The candidate that this job worked for has ended."""

    code = CANCELLED


class Watch:
    """Looks at the owner of a job, every `watch_s` seconds, where it has one and runs on Slurm."""

    def __init__(self, spec: JobSpec) -> None:
        self.product = Path(spec.product)
        self.owner = JobFolder(Path(spec.owner)) if spec.owner and spec.queue else None
        self.pause_s = min(spec.queue.watch_s, 5.0) if spec.queue else 3600.0
        self.every_s = spec.queue.watch_s if spec.queue else 0.0
        self._next = time.monotonic() + self.every_s
        self._gone = 0

    def look(self) -> None:
        """Does nothing until the next look is due.

        Raises:
            OwnerGone: the worker is finished or cancelled, or was gone at two looks in a row.
        """
        if self.owner is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.every_s
        if there(self.product):  # done but for its last breath; the worker need not wait for it
            return
        state = observe(self.owner)
        self._gone = 0 if state.alive else self._gone + 1
        if state.phase == "finished" or state.cancelled or self._gone > 1:
            raise OwnerGone(f"{self.owner.root.name} has ended: {state.message or state.phase}")
