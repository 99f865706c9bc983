"""Ending a training that its agent finds hopeless, and what it counts as.

A stopped run counts for the part that it ran of a usual training, by the trusted records of its
job: never by what its code wrote. No less than `LEAST`, so that a candidate cannot look at the
start of run after run; half where nobody knows how long a training takes.
"""

import time

from aevo.jobs.ending import cancel
from aevo.jobs.folder import JobFolder
from aevo.jobs.state import observe
from aevo.jobs.usage import spent as spent_by
from aevo.jobs.usage import survey

LEAST = 0.25  # of a training that a stopped run counts as
UNKNOWN = 0.5  # where no whole training was measured yet
STARTING_S = 30.0  # in which a job that is being started must be there
SAID = "stopped by its agent"
MARK = "stopped-by-agent"  # in the job's folder, which no worker-written code can write


def most_runs(trainings: int) -> int:
    """How many runs there can be when every one but the last is stopped at once."""
    return int(trainings / LEAST) + 1


def stop(job: JobFolder) -> bool:
    """Ends a job that lives, for good; False if it does not live. Called again it says the same."""
    mark, known = job.root / MARK, stopped(job)
    mark.touch()
    end = time.monotonic() + STARTING_S
    while not cancel(job):
        if known or observe(job).phase != "starting" or time.monotonic() > end:
            break
        time.sleep(0.1)  # its process is there in a moment, and can be ended then
    else:
        return True
    if not known:
        mark.unlink()
    return known


def stopped(job: JobFolder) -> bool:
    """True if its agent ended it."""
    return (job.root / MARK).exists()


def share(job: JobFolder, usual_s: float | None) -> float:
    """What a stopped run counts as, of a training that takes `usual_s` seconds."""
    if usual_s is None or usual_s <= 0:
        return UNKNOWN
    seen = survey([job])
    ran = sum(spent_by(item, seen.time).run_s for item in seen.jobs.values())
    return round(min(1.0, max(LEAST, ran / usual_s)), 2)
