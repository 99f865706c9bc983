"""The sbatch script of a job and the command that submits it: functions of job, cluster, and the
campaign's hung nodes.

What a dry run prints and what is submitted come from here, so they are the same bytes. Slurm's own
variables and dependencies are on the command line, not in the script: they are known only when the
jobs before it have ids.
"""

import contextlib
import hashlib
import io
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor

from aevo.config.cluster import SbatchOptions, SlurmCluster, section_of
from aevo.errors import ConfigError
from aevo.files.paths import CHECKOUT
from aevo.jobs.environment import package_first
from aevo.jobs.folder import JobFolder
from aevo.jobs.nodes import excluded
from aevo.records.job import JobSpec

# Counts how deep jobs submit jobs; see aevo.jobs.submit.
DEPTH = "AEVO_JOB_DEPTH"
OPTIONS = (
    "partition",
    "account",
    "qos",
    "constraint",
    "exclude",
    "nodelist",
    "comment",
    "mail_type",
    "mail_user",
)
EXTRA = ("reservation",)

# Words of sbatch, and the keys of conf/cluster that they are about; the first that fits holds.
REFUSALS = (
    ("option '", "extra"),
    ("unrecognized", "extra"),
    ("license", "extra"),
    ("wckey", "extra"),
    ("violates accounting", "account, qos, time_min or nodes"),
    ("partition configuration", "partition, time_min or nodes"),
    ("node configuration", "partition, nodes, gpus, gres, cpus, memory_gb or constraint"),
    ("account/partition", "account or partition"),
    ("account", "account"),
    ("qos", "qos"),
    ("partition", "partition"),
    ("reservation", "reservation"),
    ("generic resource", "gres or gpus"),
    ("gres", "gres or gpus"),
    ("tres", "gres or gpus"),
    ("feature", "constraint"),
    ("--constraint", "constraint"),
    ("time limit", "time_min"),
    ("--time", "time_min"),
    ("walltime", "time_min"),
    ("memory", "memory_gb"),
    ("node name", "nodelist or exclude"),
    ("node count", "nodes"),
    ("processors", "cpus, tasks_per_node or nodes"),
    ("cpu count", "cpus or tasks_per_node"),
    ("mail", "mail_type or mail_user"),
)


class Executor(SlurmExecutor):
    """submitit's executor, submitting a command instead of a pickled function: the job reads its
    records, so nothing is unpickled and nothing can be stale. Dependencies go to sbatch."""

    def __init__(self, folder: Path, arguments: Sequence[str], python: str) -> None:
        super().__init__(folder=folder, python=f"exec {shlex.quote(python)}")
        self.arguments = list(arguments)

    @classmethod
    def affinity(cls) -> int:
        """A dry run needs no Slurm."""
        return 2

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return ["sbatch", *self.arguments, str(submission_file_path)]

    def text(self, command: str) -> str:
        """The script that `start` submits."""
        return self._make_submission_file_text(command, uid="")

    def start(self, command: str) -> str:
        """Submits and returns Slurm's id of the job.

        Raises:
            submitit.core.utils.FailedJobError: sbatch failed; its words are in the message.
            ConfigError: there is no sbatch here.
        """
        try:
            # submitit prints what sbatch said of a failure, which is in the error already
            with contextlib.redirect_stderr(io.StringIO()):
                return str(self._submit_command(command).job_id)
        except FileNotFoundError as error:
            if error.filename != "sbatch":
                raise
            raise no_slurm() from error


def job_name(spec: JobSpec, attempt: int) -> str:
    """The name in the queue: readable, and unique to this job and submission, because a
    submission whose answer was lost is found by it."""
    place = Path(spec.folder)
    tag = hashlib.sha256(str(place).encode()).hexdigest()[:8]
    return f"{spec.name}.{place.parents[1].name}.{spec.campaign}.{tag}-{attempt}"


def executor(
    spec: JobSpec, attempt: int, cluster: SlurmCluster, dependencies: Sequence[str] = ()
) -> tuple[Executor, str]:
    """The executor of one submission and the command that its script ends in; nodes on which jobs
    of the campaign hung twice are left out.

    Raises:
        ConfigError: a value cannot be written into an sbatch script.
    """
    options = cluster.options(spec.kind, spec.resources)
    _refuse_unwritable(spec, options)
    if hung := excluded(spec):
        away = ",".join(filter(None, (options.exclude, *hung)))
        options = options.model_copy(update={"exclude": away})
    python = cluster.python or sys.executable
    made = Executor(JobFolder.of(spec).attempt(attempt), dependencies, python)
    made.update_parameters(**_parameters(options), job_name=job_name(spec, attempt))
    made.update_parameters(
        use_srun=False,  # srun inside the job is ours to call; see aevo.jobs.launch
        stderr_to_stdout=True,
        signal_delay_s=cluster.signal_s,
        setup=_setup(spec, options),
        additional_parameters=_additional(options, cluster),
    )
    command = f"{made.python} -u -m aevo.jobs.execute {shlex.quote(spec.folder)} {attempt}"
    return made, command


def _refuse_unwritable(spec: JobSpec, options: SbatchOptions) -> None:
    """`#SBATCH` lines end with the line, and sbatch replaces `%` in the name of an output file."""
    if set(spec.folder) & set("%\\\n\r"):
        raise ConfigError(
            f"sbatch cannot write to {spec.folder!r}",
            "give runs=PATH without %, backslash and line break",
        )
    values = options.model_dump(exclude={"setup", "environment", "srun"})
    values |= {f"extra.{key}": value for key, value in values.pop("extra").items()}
    for key, value in values.items():
        if isinstance(value, str) and ("\n" in value or "\r" in value):
            raise ConfigError(
                f"cluster.{section_of(spec.kind)}.{key} has a line break, which an "
                "sbatch script cannot hold",
                "write it in one line",
            )


def _parameters(options: SbatchOptions) -> dict[str, Any]:
    found: dict[str, Any] = {
        key: value for key in OPTIONS if (value := getattr(options, key)) is not None
    }
    found |= {
        "nodes": options.nodes or 1,
        "ntasks_per_node": options.tasks_per_node or 1,
        "cpus_per_task": options.cpus or 1,
        "time": options.time_min,
        "wckey": None,
    }  # submitit's own, which sites with wckeys refuse
    if options.memory_gb is not None:
        found["mem"] = f"{round(options.memory_gb * 1024)}M"
    if options.gpus:
        if options.gres:
            found["gres"] = options.gres.format(gpus=options.gpus)
        else:
            found["gpus_per_node"] = options.gpus
    if options.exclusive:
        found["exclusive"] = True
    return found


def _additional(options: SbatchOptions, cluster: SlurmCluster) -> dict[str, Any]:
    found: dict[str, Any] = {
        key: value for key in EXTRA if (value := getattr(options, key)) is not None
    }
    # B: the job's own process gets the warning, not the steps it runs
    found["signal"] = f"B:USR2@{cluster.signal_s}"
    if options.requeue is not None:
        found["requeue" if options.requeue else "no-requeue"] = True
    return found | {key: value for key, value in options.extra.items() if value is not False}


def _setup(spec: JobSpec, options: SbatchOptions) -> list[str]:
    code = shlex.quote(spec.code or str(CHECKOUT))
    lines = ["set -eo pipefail", *options.setup]
    lines += [f"export {key}={shlex.quote(value)}" for key, value in options.environment.items()]
    first = package_first(code)
    first["PYTHONPATH"] += "${PYTHONPATH:+:$PYTHONPATH}"  # what the node has stays behind it
    return [*lines, *(f"export {key}={value}" for key, value in first.items())]


def dependency(after: Sequence[str], needs: Sequence[str]) -> list[str]:
    """sbatch's arguments for Slurm ids: `after` must have ended, `needs` have succeeded."""
    parts = ([f"afterok:{':'.join(needs)}"] if needs else []) + (
        [f"afterany:{':'.join(after)}"] if after else []
    )
    if not parts:
        return []
    return [f"--dependency={','.join(parts)}", "--kill-on-invalid-dep=yes"]


def refusal(spec: JobSpec, words: str) -> ConfigError:
    """What sbatch said, and the key of conf/cluster to change."""
    said = "; ".join(dict.fromkeys(filter(None, map(_bare, words.splitlines()))))
    section = section_of(spec.kind)
    key = next((key for word, key in REFUSALS if word in said.lower()), None)
    change = f"change {key} in" if key else "see"
    return ConfigError(
        f"Slurm refused {spec.name}: {said or 'sbatch failed without a word'}",
        f"{change} cluster.{section} or cluster.common (conf/cluster/, or on the command line)",
    )


def no_slurm() -> ConfigError:
    """The error of a machine without Slurm's commands."""
    return ConfigError(
        "sbatch is not installed here",
        "run this where Slurm's commands are on PATH, or choose cluster=local",
    )


def _bare(line: str) -> str:
    """A line of sbatch's without what is the same in all of them."""
    if line.startswith("Try "):
        return ""
    for prefix in ("sbatch: ", "error: ", "Batch job submission failed: ", "allocation failure: "):
        line = line.removeprefix(prefix)
    return line.strip()
