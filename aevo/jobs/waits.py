"""Times of jobs: what they waited for the scheduler, which is never held against a candidate, and
what they took of its GPUs."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from aevo.jobs.folder import JobFolder, last_attempt
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
    """GPU-hours of these jobs until `now` (Unix time), all attempts together. Asks no scheduler:
    an attempt that has not ended counts as going on."""
    total = 0.0
    for folder in folders:
        job = JobFolder(folder)
        if job.spec.exists():
            lines = job.lines()
            going = not job.end(last_attempt(lines)).exists()
            total += hours(read(JobSpec, job.spec), runs(job, lines, now, going))
    return total


def hours(spec: JobSpec, times: Iterable[tuple[float, float]]) -> float:
    """GPU-hours of a job that ran between these times."""
    devices = spec.resources.gpus * spec.resources.nodes
    return sum(end - begin for begin, end in times) * devices / 3600


def runs(
    job: JobFolder, lines: list[LedgerLine], now: float, going: bool
) -> Iterator[tuple[float, float]]:
    """Begin and end of each attempt that started; until `now` the last one, if it is `going`.

    An attempt that was killed counts until its last sign of life, so for one that wrote nothing for
    long this is a lower bound.
    """
    for line in lines:
        if line.event != "started":
            continue
        end = job.ended(line.attempt)
        if end is not None and end.by == "job":
            # the file's own time would lie in a copied campaign, so it is bounded
            last = min(line.time + end.seconds, job.end(line.attempt).stat().st_mtime)
        elif line.attempt == last_attempt(lines) and going:
            last = now
        else:
            later = [other.time for other in lines if other.attempt > line.attempt]
            sign = last_sign(job, lines, line.attempt)
            last = min([sign if sign is not None else now, *later])
        yield line.time, max(line.time, last)


def last_sign(job: JobFolder, lines: list[LedgerLine], attempt: int) -> float | None:
    """When an attempt that is over was last seen; None if there never was one."""
    end = job.ended(attempt) if attempt else None
    paths = [job.log(attempt)] if end is None or end.by == "scheduler" else [job.end(attempt)]
    times = [path.stat().st_mtime for path in paths if path.exists()]
    times += [line.time for line in lines if line.attempt == attempt]
    return max(times, default=None)


def _waits(job: JobFolder, now: float) -> Iterator[tuple[float, float]]:
    lines = job.lines()
    started = {line.attempt: line.time for line in lines if line.event == "started"}
    for line in lines:
        if line.event == "intent":
            later = [other.time for other in lines if other.attempt > line.attempt]
            ended = later[0] if later else _until(job, line, now)
            yield line.time, started.get(line.attempt, ended)
        elif line.event == "requeued":
            sign = last_sign(job, lines, line.attempt - 1)
            yield line.time if sign is None else sign, started.get(line.attempt, line.time)


def _until(job: JobFolder, line: LedgerLine, now: float) -> float:
    """An attempt that never started waited until it ended, or waits still."""
    end = job.end(line.attempt)
    return end.stat().st_mtime if end.exists() else now
