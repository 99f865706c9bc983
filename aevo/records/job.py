"""Job records: what a job is, each submission of it, and how it ended."""

from typing import Literal

from aevo.records.io import Part, Record

JobKind = Literal["worker", "train", "evaluate", "leaderboard", "collector", "meta", "prepare"]


class Step(Part):
    """One command of a job: argument vector, working folder, extra environment."""

    argv: list[str]
    cwd: str
    env: dict[str, str] = {}


class Resources(Part):
    """What a job asks for. `time_min` is its wall limit in minutes; `slots` what it takes of a
    machine in local mode: one, or none for a job that only waits."""

    cpus: int = 1
    gpus: int = 0
    memory_gb: float | None = None
    time_min: int = 60
    slots: Literal[0, 1] = 1


class JobSpec(Record):
    """A job before submission; it is finished when `product` exists.

    Exactly one of `steps` (commands, run in order) and `entry` (`module:function`, called with
    `arguments`) is given. `after` names jobs that must have ended, however they ended. `attempts`
    is how often it may fail by itself; being killed or cancelled does not count.
    """

    name: str
    kind: JobKind
    campaign: str
    folder: str
    product: str
    entry: str | None = None
    arguments: list[str] = []
    steps: list[Step] = []
    after: list[str] = []
    attempts: int = 2
    resources: Resources = Resources()


class LedgerLine(Part):
    """One line of the ledger: `intent` before a submission, `submitted` after it."""

    event: Literal["intent", "submitted"]
    name: str
    attempt: int
    time: float
    job_id: str | None = None


class JobEnd(Record):
    """How one attempt ended, written by the job itself; missing if it was killed."""

    name: str
    attempt: int
    exit_code: int
    seconds: float
    host: str
    message: str = ""


class Running(Record):
    """What the live attempt of a job is doing; true only while the lease beside it is held.

    `child` is the process group of the command it runs.
    """

    name: str
    attempt: int
    pid: int
    host: str
    started: float
    phase: Literal["waiting", "queued", "running"]
    child: int | None = None
