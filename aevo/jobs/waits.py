"""Times of jobs: what they waited for the scheduler, which is never held against a candidate, and
what they took of its GPUs."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from aevo.jobs.folder import JobFolder
from aevo.records.io import read
from aevo.records.job import JobSpec, LedgerLine


def queue_seconds(folders: Iterable[Path], since: float, now: float) -> float:
    """Seconds between two Unix times in which at least one of these jobs waited to be started.

    Waiting is from a submission, or from the last sign of life before a requeue, to the start of
    the attempt. Two jobs that wait at the same time count once.
    """
    total, covered = 0.0, since
    for begin, end in sorted(interval for folder in folders
                             for interval in _waits(JobFolder(folder), now)):
        begin = max(begin, covered)
        if end > begin:
            total, covered = total + end - begin, end
    return total


def gpu_hours(folders: Iterable[Path], now: float) -> float:
    """GPU-hours of these jobs until `now` (Unix time), all attempts together."""
    total = 0.0
    for folder in folders:
        job = JobFolder(folder)
        if not job.spec.exists():
            continue
        asked = read(JobSpec, job.spec).resources
        lines = job.lines()
        for line in lines:
            if line.event == "started":
                later = any(other.attempt > line.attempt for other in lines)
                ended = _seen(job, line) if later else _until(job, line, now)
                total += max(0.0, ended - line.time) * asked.gpus * asked.nodes / 3600
    return total


def _waits(job: JobFolder, now: float) -> Iterator[tuple[float, float]]:
    lines = job.lines()
    started = {line.attempt: line.time for line in lines if line.event == "started"}
    for line in lines:
        if line.event == "intent":
            later = [other.time for other in lines if other.attempt > line.attempt]
            ended = later[0] if later else _until(job, line, now)
            yield line.time, started.get(line.attempt, ended)
        elif line.event == "requeued":
            yield _last_sign(job, line), started.get(line.attempt, line.time)


def _until(job: JobFolder, line: LedgerLine, now: float) -> float:
    """An attempt that never started waited until it ended, or waits still."""
    end = job.end(line.attempt)
    return end.stat().st_mtime if end.exists() else now


def _seen(job: JobFolder, line: LedgerLine) -> float:
    """When an attempt that is over was last seen; its start if it left nothing."""
    signs = (job.end(line.attempt), job.log(line.attempt))
    return max((path.stat().st_mtime for path in signs if path.exists()), default=line.time)


def _last_sign(job: JobFolder, line: LedgerLine) -> float:
    """When the attempt before a requeue was last seen; the requeue itself if it left nothing."""
    before = (job.end(line.attempt - 1), job.log(line.attempt - 1))
    return max((path.stat().st_mtime for path in before if path.exists()), default=line.time)
