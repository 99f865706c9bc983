"""conf/cluster: where jobs run and what they ask for, typed and validated.

`SbatchOptions` holds every option that sites differ in; a null option is left out of the script.
A job's options are, each overriding the one before: the model's resources, `common`, and the
section of its kind (`control`, `train` or `evaluate`).
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from aevo.files.documents import Part
from aevo.records.job import Container, JobKind, Resources


class LocalCluster(Part):
    """This machine, through submitit's LocalExecutor."""

    kind: Literal["local"]
    slots: PositiveInt | None
    slot_folder: str | None
    max_wait_min: PositiveInt


class SbatchOptions(Part):
    """Options of one kind of job. `gpus` are per node; `gres` is used instead of
    `--gpus-per-node` where given, `{gpus}` in it replaced by the number."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gres: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    nodes: PositiveInt | None = None
    tasks_per_node: PositiveInt | None = None
    gpus: int | None = Field(None, ge=0)
    cpus: PositiveInt | None = None
    memory_gb: PositiveFloat | None = None
    exclusive: bool | None = None
    time_min: PositiveInt | None = None
    requeue: bool | None = None
    comment: str | None = None
    mail_type: str | None = None
    mail_user: str | None = None
    extra: dict[str, str | int | bool] = {}
    srun: list[str] = []
    setup: list[str] = []
    environment: dict[str, str] = {}

    def over(self, base: "SbatchOptions") -> "SbatchOptions":
        """These options where they are given, else those of `base`; lists and maps are joined."""
        data = base.model_dump() | {k: v for k, v in self.model_dump().items() if v is not None}
        return SbatchOptions(
            **{
                **data,
                "extra": base.extra | self.extra,
                "srun": base.srun + self.srun,
                "setup": base.setup + self.setup,
                "environment": base.environment | self.environment,
            }
        )


class SlurmCluster(Part):
    """A Slurm cluster. Seconds: `poll_s` between two questions to the scheduler (shared by all
    processes of a round), `settle_s` that a record may lag behind its job on the filesystem,
    `watch_s` between a GPU job's looks at its candidate, `signal_s` of warning before a time
    limit. `resumes`: how often training or evaluation may outlive its limit and go on."""

    kind: Literal["slurm"]
    common: SbatchOptions
    control: SbatchOptions
    train: SbatchOptions
    evaluate: SbatchOptions
    container: Container
    slurm_conf: str | None
    python: str | None
    poll_s: PositiveFloat
    settle_s: PositiveFloat
    watch_s: PositiveFloat
    signal_s: PositiveInt
    resumes: int = Field(ge=0)
    max_jobs_per_round: PositiveInt

    def options(self, kind: JobKind, resources: Resources) -> SbatchOptions:
        """What a job of this kind asks for."""
        asked = SbatchOptions(
            nodes=resources.nodes,
            tasks_per_node=resources.tasks_per_node,
            gpus=resources.gpus,
            cpus=resources.cpus,
            memory_gb=resources.memory_gb,
            time_min=resources.time_min,
        )
        section: SbatchOptions = getattr(self, section_of(kind))
        found = section.over(self.common.over(asked))
        if found.memory_gb is None:
            memory = resources.memory(found.gpus or 0)
            found = found.model_copy(update={"memory_gb": memory})
        return found


ClusterSettings = Annotated[LocalCluster | SlurmCluster, Field(discriminator="kind")]


def section_of(kind: JobKind) -> Literal["control", "train", "evaluate"]:
    """The section of conf/cluster that holds for a kind of job."""
    if kind == "train":
        return "train"
    if kind in ("evaluate", "leaderboard"):
        return "evaluate"
    return "control"
