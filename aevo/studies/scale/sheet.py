"""One sheet: everything that is computed of one configuration, as labelled lines."""

from dataclasses import dataclass, field
from pathlib import Path

from aevo.config.cluster import SlurmCluster
from aevo.config.schema import Config
from aevo.evaluate.adapters import Limits
from aevo.studies.scale import answering, cost, hardware, memory, parallel, steptime, storage
from aevo.studies.scale.answering import Evaluation
from aevo.studies.scale.architecture import Architecture, known
from aevo.studies.scale.assumptions import Assumptions
from aevo.studies.scale.cost import Round
from aevo.studies.scale.hardware import Gpu
from aevo.studies.scale.hf_config import read
from aevo.studies.scale.memory import GIB, Memory
from aevo.studies.scale.parallel import Division, resources
from aevo.studies.scale.steptime import Step
from aevo.studies.scale.storage import Storage
from aevo.substrate.frozen import DEFAULT

FEW = 1 / 3  # of a GPU's memory: below it the layout is said to be spread wide
CHALLENGE = 7680  # tokens that the challenge lets an answer have


@dataclass(frozen=True)
class Sheet:
    """A model on a cluster. `step`, `evaluation` and `round` are None where no GPU is asked for:
    the time model is one of GPUs. `problems` are what would fail, `notes` what is wasted."""

    model: Architecture
    layout: Division
    gpu: Gpu | None
    memory: Memory
    host: float | None
    storage: Storage
    step: Step | None
    evaluation: Evaluation | None
    round: Round | None
    steps: int
    candidates: int
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def evaluates(self) -> bool:
        """Whether the evaluator has room on its GPUs."""
        found = self.evaluation
        return found is not None and found.memory <= found.room and found.used <= found.gpus


def of(config: Config, assumed: Assumptions, files: bool = True) -> Sheet:
    """Computes a sheet.

    Args:
        files: read the base's config.json where it is; False: shipped architectures alone.

    Raises:
        ConfigError: nothing is known of the model's architecture, or of the GPU.
    """
    model = find(config, files)
    recipe = parallel.standing_recipe(config)
    divided = parallel.of(config, model, recipe, assumed)
    held = memory.of(model, divided, assumed)
    gpu = hardware.chosen(config, assumed.gpu) if divided.gpus else None
    step = steptime.of(model, divided, gpu, assumed) if gpu else None
    scoring = answering.of(config, model, gpu, assumed) if gpu else None
    found = Sheet(
        model=model,
        layout=divided,
        gpu=gpu,
        memory=held,
        host=host_memory(model, divided, held),
        storage=storage.of(model, divided, recipe, step.seconds if step else None),
        step=step,
        evaluation=scoring,
        round=(
            cost.of(config, model, divided, recipe, step, scoring, assumed)
            if step and scoring
            else None
        ),
        steps=int(recipe["steps"]),
        candidates=config.worker.n,
    )
    found.problems.extend([*divided.problems, *_misfits(found, config), *_limits(found, config)])
    found.notes.extend([*divided.notes, *_notes(found, config)])
    return found


def find(config: Config, files: bool = True) -> Architecture:
    """The model's architecture: of its checkpoint where it is at hand, else as it ships.

    Raises:
        ConfigError: neither.
    """
    folder = Path(config.substrate or DEFAULT) / config.model.base
    if files and (folder / "config.json").is_file():
        return read(folder)
    return known(config.model.name)


def host_memory(model: Architecture, divided: Division, held: Memory) -> float | None:
    """Bytes of a node's memory while weights are read, before they go to GPUs; of trainer=bridge it
    is not known."""
    if divided.trainer == "megatron":
        return held.weights * min(divided.ranks / divided.nodes, divided.ranks)
    return None if divided.trainer == "bridge" else held.weights


def _misfits(sheet: Sheet, config: Config) -> list[str]:
    """Where memory does not suffice."""
    found = []
    room = sheet.gpu.memory if sheet.gpu else None
    if sheet.gpu and room and sheet.memory.total > room:
        found.append(
            f"training does not fit: {binary(sheet.memory.total)} of an "
            f"{sheet.gpu.name}'s {binary(room)}"
        )
    if sheet.evaluation and not sheet.evaluates:
        own = sheet.evaluation
        found.append(
            f"evaluation does not fit: evaluator={config.evaluator.name} takes "
            f"{binary(own.memory)} of each of {own.used} GPU(s); there are "
            f"{binary(own.room)} of {own.gpus}"
        )
    asked = resources(config, "train")
    given = asked.memory(asked.gpus)
    needed = sheet.host if sheet.gpu else sheet.memory.total
    if given and needed and needed > given * GIB:
        found.append(
            f"host memory: {binary(needed)} while weights are read, {given:g} GiB asked for"
        )
    disk, written = config.model.train.disk_gb * GIB, sheet.storage.left
    if written > disk:
        found.append(f"disk: a run leaves {size(written)}, model.train.disk_gb allows {size(disk)}")
    if sheet.storage.adapter > Limits().bytes:
        found.append(
            f"adapter of {size(sheet.storage.adapter)}: more than the "
            f"{Limits().bytes / GIB:g} GiB that aevo takes"
        )
    return found


def _limits(sheet: Sheet, config: Config) -> list[str]:
    """Where a job outlives its time limit, resumptions included."""
    found: list[str] = []
    if sheet.round is None:
        return found
    resumes = config.cluster.resumes if isinstance(config.cluster, SlurmCluster) else 0
    jobs = (("train", sheet.round.training), ("evaluate", sheet.round.evaluation))
    for name, job in jobs:
        allowed = 60 * resources(config, "train" if name == "train" else "evaluate").time_min
        if job.seconds > allowed * (resumes + 1):
            found.append(
                f"{name}: {job.seconds / 3600:.1f} h of {allowed / 3600:g} h, "
                f"{resumes} resumption(s)"
            )
    return found


def _notes(sheet: Sheet, config: Config) -> list[str]:
    """GPUs and answers that the evaluator leaves."""
    found: list[str] = []
    if sheet.evaluation is None or sheet.gpu is None:
        return found
    share = sheet.memory.total / sheet.gpu.memory
    if sheet.layout.ranks > 1 and share < FEW:
        found.append(f"the fullest GPU uses {100 * share:.0f} % of its memory: fewer may do")
    idle = sheet.evaluation.gpus - sheet.evaluation.used
    if idle > 0:
        found.append(
            f"evaluator={config.evaluator.name} leaves {idle} of {sheet.evaluation.gpus} GPUs idle"
        )
    longest = sheet.evaluation.longest
    if config.model.preset == "challenge" and longest < CHALLENGE:
        found.append(
            f"evaluator={config.evaluator.name} ends answers after {longest} tokens, the "
            f"challenge after {CHALLENGE:,}"
        )
    return found


def binary(value: float) -> str:
    """Bytes with the binary unit that fits."""
    for unit, name in ((GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= unit:
            found = value / unit
            return f"{found:,.0f} {name}" if found >= 100 else f"{found:.1f} {name}"
    return f"{value:.0f} B"


def size(value: float) -> str:
    """Bytes with the decimal unit that fits."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:.0f} B"
