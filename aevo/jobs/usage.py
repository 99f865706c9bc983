"""All jobs of a round looked at once, and what they took: queue wait, run time, GPU-hours.

Times come from the jobs' own records (ledger, end.json, the last sign of life of an attempt that
could not leave one), never from Slurm's accounting: they are the same where there is none.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from aevo.files.documents import read
from aevo.files.untrusted import there
from aevo.jobs.folder import JobFolder, JobState, last_attempt
from aevo.jobs.queue import QueuedJob, Snapshot, call, snapshot
from aevo.jobs.state import current_id, observe
from aevo.records.job import JobSpec, LedgerLine

SACCT_DEADLINE_S = 5.0
SACCT_FIELDS = ("JobIDRaw", "State", "NodeList", "ExitCode")


@dataclass(frozen=True)
class Seen:
    """One job as it was found; `row` is squeue's, None where it has none or was not asked."""

    job: JobFolder
    spec: JobSpec
    lines: list[LedgerLine]
    state: JobState
    row: QueuedJob | None = None

    @property
    def cancelled(self) -> bool:
        """True if a person has cancelled it."""
        return self.state.cancelled


@dataclass(frozen=True)
class Survey:
    """The jobs by name, at one time. `error` is what squeue said instead of an answer."""

    time: float
    jobs: dict[str, Seen]
    error: str = ""

    @property
    def on_slurm(self) -> bool:
        """True if some of the jobs were submitted to Slurm."""
        return any(seen.spec.queue is not None for seen in self.jobs.values())


def survey(folders: Iterable[JobFolder]) -> Survey:
    """Looks at jobs that were ever submitted.

    The scheduler is asked at most once for each file that its answer is shared through, and not
    at all when the records tell everything. If it does not answer, jobs whose records do not tell
    are `unknown`, and it is not asked again.
    """
    found: dict[str, Seen] = {}
    answers: dict[str, Snapshot] = {}
    error = ""
    for job in folders:
        if not job.spec.exists():
            continue
        spec, lines = read(JobSpec, job.spec), job.lines()
        if spec.queue is None or not lines or _on_record(job, spec, lines):
            found[spec.name] = Seen(job, spec, lines, observe(job))
            continue
        known = Snapshot(time=0.0, error=error) if error else answers.get(spec.queue.cache)
        if known is None:
            known = answers[spec.queue.cache] = snapshot(spec.queue)
        error = error or known.error
        job_id = current_id(lines, known)
        row = known.job(job_id) if job_id else None
        found[spec.name] = Seen(job, spec, lines, _state(job, spec, lines, known, job_id, row), row)
    return Survey(time.time(), found, error)


def _state(
    job: JobFolder,
    spec: JobSpec,
    lines: list[LedgerLine],
    known: Snapshot,
    job_id: str | None,
    row: QueuedJob | None,
) -> JobState:
    """The state of a job whose records do not tell it. `observe` would ask sacct about one that
    Slurm has forgotten, with a long deadline, again and again in a view that refreshes."""
    attempt = last_attempt(lines)
    if known.error:
        return JobState(
            spec.name, "unknown", attempt, job.log(attempt), job_id=job_id, reason=known.error
        )
    asked = max(line.time for line in lines if line.event != "started")
    if job_id is not None and row is None and known.time > asked:
        return JobState(spec.name, "ending", attempt, job.log(attempt), job_id=job_id)
    return observe(job)


def _on_record(job: JobFolder, spec: JobSpec, lines: list[LedgerLine]) -> bool:
    """True if the records say how the job stands, without the scheduler."""
    end = job.ended(last_attempt(lines))
    return (
        there(spec.product)
        or (end is not None and not end.requeued)
        or lines[-1].event == "refused"
    )


@dataclass(frozen=True)
class Spent:
    """What a job took until now, all attempts together. Seconds; `wait_s` is time in the queue
    after all that it waits for had ended."""

    wait_s: float = 0.0
    run_s: float = 0.0
    gpu_hours: float = 0.0


def spent(seen: Seen, now: float) -> Spent:
    """What a job took until `now` (Unix time).

    An attempt that was killed counts until its last sign of life (its log), so for one that wrote
    nothing for long the figures are lower bounds.
    """
    times = list(runs(seen.job, seen.lines, now, _goes_on(seen, now)))
    run_s = sum(end - begin for begin, end in times)
    released = _released(seen.spec)
    until = now
    if not _goes_on(seen, now):
        until = min(now, last_sign(seen.job, seen.lines, seen.state.attempt) or now)
    wait_s = 0.0
    if released is not None and seen.lines:
        wait_s = max(0.0, queue_seconds([seen.job.root], released, until))
    return Spent(wait_s, run_s, hours(seen.spec, times))


def _goes_on(seen: Seen, now: float) -> bool:
    return seen.state.alive and not fate_unknown(seen, now)


def _released(spec: JobSpec) -> float | None:
    """When the last job that this one waits for had ended; None if one of them has not."""
    last = 0.0
    for folder in (*spec.after, *spec.needs):
        parent = JobFolder(Path(folder))
        lines = parent.lines()
        end = parent.end(last_attempt(lines))
        product = Path(read(JobSpec, parent.spec).product) if parent.spec.exists() else None
        if product is not None and there(product):
            last = max(last, product.stat().st_mtime)
        elif end.exists():
            last = max(last, end.stat().st_mtime)
        else:
            return None
    return last


def fate_unknown(seen: Seen, now: float) -> bool:
    """True for a job that Slurm has done with, or forgotten, and that has left no record for
    longer than the filesystem may lag."""
    if seen.state.phase != "ending" or seen.spec.queue is None:
        return False
    sign = last_sign(seen.job, seen.lines, seen.state.attempt)
    return now - (sign or 0.0) > seen.spec.queue.settle_s


@dataclass(frozen=True)
class Accounted:
    """What sacct says of one start of a job: `TIMEOUT`, `NODE_FAIL`, `OUT_OF_MEMORY`, …"""

    state: str
    node: str
    exit_code: str


@dataclass(frozen=True)
class Accounts:
    """sacct's answer: the starts of each job, oldest first; `error` if it gave none."""

    time: float
    starts: dict[str, list[Accounted]]
    error: str = ""


def accounts(job_ids: Iterable[str]) -> Accounts:
    """Asks sacct once for all starts of these jobs, with a short deadline; requeued ones too."""
    ids = sorted({job_id for job_id in job_ids if job_id})
    asked = time.time()
    code, text, said = call(
        [
            "sacct",
            "--noheader",
            "--allocations",
            "--duplicates",
            "--parsable2",
            f"--jobs={','.join(ids) or '1'}",
            f"--format={','.join(SACCT_FIELDS)}",
        ],
        SACCT_DEADLINE_S,
    )
    found = Accounts(asked, {}, "" if code == 0 else said or f"sacct ended with exit code {code}")
    for line in text.splitlines() if code == 0 else []:
        fields = line.split("|")
        if len(fields) == len(SACCT_FIELDS):
            job_id, state, node, exit_code = fields
            node = "" if node == "None assigned" else node
            found.starts.setdefault(job_id, []).append(Accounted(state, node, exit_code))
    return found


class Accounting:
    """sacct for a view that refreshes: one question per `every_s`, the last answer otherwise."""

    def __init__(self, every_s: float = 60.0) -> None:
        self.every_s = every_s
        self._last = Accounts(0.0, {})

    def ask(self, job_ids: Iterable[str]) -> Accounts:
        """The answer for these jobs, at most `every_s` old."""
        if time.time() - self._last.time >= self.every_s:
            self._last = replace(accounts(job_ids), time=time.time())
        return self._last


def queue_seconds(folders: Iterable[Path], since: float, now: float) -> float:
    """Seconds between two Unix times in which at least one of these jobs waited to be started.

    Waiting is from a submission, or from the last sign of life before a requeue, to the start of
    the attempt. Two jobs that wait at the same time count once.
    """
    total, covered = 0.0, since
    for begin, end in sorted(
        interval for folder in folders for interval in _waits(JobFolder(folder), now)
    ):
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
