"""Job records: what a job is, each submission of it, and how it ended."""

from typing import Literal

from aevo.files.documents import Part, Record

Kind = Literal["bubblewrap", "landlock", "none"]
# `container` was offered once: campaigns that name it still load, and are refused where it is used.
Setting = Literal["auto", "bubblewrap", "landlock", "container", "none"]


class Confinement(Part):
    """What one command may touch. Everything that is not named here is out of its reach.

    Paths are absolute and keep their names inside. Where paths nest, the longest one decides: a
    `read` below a `hide` is readable, a `hide` below a `read` is not. The command's working folder
    is readable without being named.

    Limits hold for the whole process tree unless they say otherwise; None means no limit.
    """

    read: list[str] = []  # readable, executable: pristine substrate, base checkpoint, data
    write: list[str] = []  # also writable: output folder, scratch. They must exist
    hide: list[str] = []  # must not be seen: campaign, vault, home, folders of munge and Slurm
    cpu_s: int | None = None  # processor seconds of each process
    total_cpu_s: int | None = None  # processor seconds of the whole tree
    memory_gb: float | None = 16.0  # resident memory in GiB, and the size of /tmp and /dev/shm
    processes: int | None = 1024  # processes and threads
    file_gb: float | None = 16.0  # size of one file in GiB
    disk_gb: float | None = 32.0  # growth of all `write` paths together in GiB
    log_gb: float | None = 1.0  # growth of the file that stdout or stderr goes to, in GiB
    open_files: int | None = 4096  # of each process
    network: bool = False  # only for the ranks of one training run; see the package's docstring
    loopback: bool = False  # ranks of one node meet: also where no network namespace is granted
    devices: bool = False  # GPUs
    image: str | None = None  # of no effect; records of earlier versions have it


JobKind = Literal["plan", "worker", "train", "evaluate", "leaderboard", "collector", "meta"]


class Step(Part):
    """One command of a job: argument vector, working folder, extra environment. A `distributed`
    step is started once per rank. A step with `confine` runs code that a worker may have written,
    in the sandbox; scratch space is added to what it may write, and the folder `cache`, where
    compilers keep kernels for the job when it is resumed."""

    argv: list[str]
    cwd: str
    env: dict[str, str] = {}
    distributed: bool = False
    confine: Confinement | None = None
    cache: str | None = None


class Resources(Part):
    """What a job asks for. `time_min` is its wall limit in minutes, `gpus` and `tasks_per_node`
    are per node; `slots` is what it takes of a machine in local mode: one, or none for a job that
    only waits. `disk_gb` is what its confined commands may write, in GiB. `memory_per_gpu_gb` holds
    where no `memory_gb` is given."""

    cpus: int = 1
    gpus: int = 0
    memory_gb: float | None = None
    memory_per_gpu_gb: float | None = None
    time_min: int = 60
    slots: Literal[0, 1] = 1
    nodes: int = 1
    tasks_per_node: int = 1
    disk_gb: float = 32.0

    @property
    def ranks(self) -> int:
        """Processes of a distributed step."""
        return self.nodes * self.tasks_per_node

    def memory(self, gpus: int) -> float | None:
        """GiB of a node with so many GPUs: a share that is for one must not stand for eight."""
        if self.memory_gb is not None or self.memory_per_gpu_gb is None:
            return self.memory_gb
        return self.memory_per_gpu_gb * max(gpus, 1)


class Container(Part):
    """What the commands of a training stack run in on a compute node. `mounts` are
    `source:destination`; `arguments` go to srun (pyxis) or to `apptainer exec`; `python` is the
    interpreter inside, null for the path of ours."""

    kind: Literal["none", "pyxis", "apptainer"] = "none"
    image: str | None = None
    mounts: list[str] = []
    arguments: list[str] = []
    python: str | None = None


class Queue(Part):
    """How a job on Slurm is watched: `cache` is the file of the round's last answer of squeue."""

    cache: str
    poll_s: float
    settle_s: float
    watch_s: float


class Launch(Part):
    """How the commands of a job on Slurm are started; `environment` is the operator's."""

    container: Container = Container()
    srun: list[str] = []
    environment: dict[str, str] = {}


class Watchdog(Part):
    """When a command of a job counts as hung: one of `files` (a folder: the *.jsonl below) changed
    some times and then none for longer than `steps` medians of the time between two changes, and
    than `least_s`. `first_s` holds before that is known; None: no limit. In `record` hangs are kept
    for the campaign."""

    files: list[str]
    steps: float = 50.0
    least_s: float = 600.0
    first_s: float | None = None
    record: str | None = None


class HungNode(Part):
    """One line of a campaign's `hangs.jsonl`: a job that hung, and on which node."""

    node: str
    job: str
    time: float


class JobSpec(Record):
    """A job before submission; it is finished when `product` exists.

    Exactly one of `steps` (commands, run in order) and `entry` (`module:function`, called with
    `arguments`) is given. `after` names the folders of jobs that must have ended, however they
    ended, `needs` those that must have finished. `owner` is the folder of the worker that the job
    ends with. `attempts` is how often it may fail by itself; being killed or cancelled does not
    count. `resumes` is how often it may reach its time limit and go on. `code` is the folder with
    the package that the job runs. `watchdog`: when its commands count as hung; null: never.
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
    needs: list[str] = []
    owner: str | None = None
    attempts: int = 2
    resumes: int = 0
    resources: Resources = Resources()
    code: str | None = None
    queue: Queue | None = None
    launch: Launch = Launch()
    watchdog: Watchdog | None = None
    sandbox: Setting = "auto"


class LedgerLine(Part):
    """One line of a job's ledger. `intent` stands before a submission, `submitted` or `refused`
    after it; `requeued` opens the next attempt of the same submission; `started` is written by
    the attempt itself, when it has what it waited for."""

    event: Literal["intent", "submitted", "refused", "requeued", "started"]
    name: str
    attempt: int
    time: float
    job_id: str | None = None
    job_name: str | None = None
    text: str = ""


class JobEnd(Record):
    """How one attempt ended, written by the job itself, or, with `by` scheduler, from what the
    scheduler says of an attempt that could not; missing if it was killed. `requeued`: the
    scheduler starts it again without being asked."""

    name: str
    attempt: int
    exit_code: int
    seconds: float
    host: str
    message: str = ""
    requeued: bool = False
    by: Literal["job", "scheduler"] = "job"


class Running(Record):
    """What the live attempt of a job is doing; true only while the job is alive.

    `child` is the process group of the command it runs.
    """

    name: str
    attempt: int
    pid: int
    host: str
    started: float
    phase: Literal["waiting", "queued", "running"]
    child: int | None = None
