"""One start of a job, as its own process records it."""

import os
import socket
import time
from dataclasses import dataclass
from typing import Any

from aevo.files.documents import append_line, write_json
from aevo.jobs import slurm
from aevo.jobs.folder import CANCELLED, INTERRUPTED, JobFolder
from aevo.records.job import JobEnd, JobSpec, LedgerLine, Running

TIME_LIMIT = 124  # exit code of an attempt that reached its time limit


@dataclass(frozen=True)
class Attempt:
    """One start of a job, in this process: what it leaves on record."""

    job: JobFolder
    spec: JobSpec
    number: int
    started: float

    def note(self, event: Any) -> None:
        """A line of the job's ledger."""
        append_line(
            self.job.ledger,
            LedgerLine(
                event=event,
                name=self.spec.name,
                attempt=self.number,
                time=time.time(),
                job_id=os.environ.get("SLURM_JOB_ID") if self.spec.queue is not None else None,
            ),
        )

    def enter(self, phase: Any, child: int | None = None) -> None:
        """What it does from now on."""
        write_json(
            self.job.running,
            Running(
                name=self.spec.name,
                attempt=self.number,
                pid=os.getpid(),
                child=child,
                host=socket.gethostname(),
                started=self.started,
                phase=phase,
            ),
        )

    def end(self, code: int, message: str = "", requeued: bool = False) -> None:
        """How it ended; nothing is written after it."""
        write_json(
            self.job.end(self.number),
            JobEnd(
                name=self.spec.name,
                attempt=self.number,
                exit_code=code,
                seconds=round(time.time() - self.started, 2),
                host=socket.gethostname(),
                message=message,
                requeued=requeued,
            ),
        )

    def comes_back(self, code: int) -> bool:
        """True if Slurm starts this submission again; asks it to where the job may go on."""
        spec = self.spec
        if spec.queue is None:
            return False
        if code == INTERRUPTED:
            return True
        earlier = [
            end for number in range(1, self.number) if (end := self.job.ended(number)) is not None
        ]
        if code == TIME_LIMIT:
            wanted = sum(end.exit_code == TIME_LIMIT for end in earlier) < spec.resumes
        elif code == CANCELLED or spec.entry is None:  # a worker decides about its trainings
            wanted = False
        else:
            failed = sum(
                end.exit_code not in (0, INTERRUPTED, CANCELLED, TIME_LIMIT) for end in earlier
            )
            wanted = failed + 1 < spec.attempts
        return wanted and slurm.requeue(os.environ.get("SLURM_JOB_ID", ""))
