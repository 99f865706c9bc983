"""Which attempt of which job made a run."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from aevo.evaluate.untrusted import IntegrityError, open_file
from aevo.files.documents import read
from aevo.files.paths import RunLayout
from aevo.jobs.folder import JobFolder, last_attempt
from aevo.records.inspection import AdapterProof, AdapterReport, RunProof
from aevo.records.job import JobSpec
from aevo.records.scores import TrainingResult
from aevo.substrate.frozen import Substrate


def prove_run(
    run: RunLayout,
    expected: JobSpec,
    seed: int,
    substrate: Substrate,
    result: TrainingResult,
    adapters: Mapping[str, AdapterReport],
    data: Path | None = None,
) -> RunProof:
    """Binds a finished run to the attempt that made it, from the job's own records.

    Args:
        expected: the job as the plan gives it; the one on record must have its commands.
        seed: the plan's seed; must stand in the commands, and in what the run says.
        result: as `check_output` returned it.
        adapters: reports of the adapters that passed, by checkpoint.
        data: the training data; default `train.jsonl` in the run's data folder, if there is one.

    Raises:
        IntegrityError: the job on record is another one, or the run contradicts it.
    """
    job = JobFolder.of(expected)
    _check_job(read(JobSpec, job.spec), expected)
    if not any(str(seed) in step.argv for step in expected.steps):
        raise IntegrityError(f"the commands of {expected.name} do not have the seed {seed}")
    if result.seed != seed:
        raise IntegrityError(f"{run.result} is of seed {result.seed}; the plan says {seed}")
    attempt, slurm_id = _attempt(job)
    file = data or run.data / "train.jsonl"
    steps = {Path(item.path).name: item for item in result.checkpoints}
    return RunProof(
        job=expected.name,
        attempt=attempt,
        slurm_job_id=slurm_id,
        seed=seed,
        fork_sha256=substrate.recipe_sha256(run.fork),
        data_sha256=sha256(file) if os.path.lexists(file) else None,
        result_sha256=sha256(run.result),
        adapters={
            name: AdapterProof(
                step=steps[name].step,
                path=steps[name].path,
                weights_sha256=report.weights_sha256,
                identities=report.identities,
            )
            for name, report in adapters.items()
        },
        started=_started(job, attempt),
        ended=ended(job, attempt),
    )


def sha256(path: Path) -> str:
    """Of a plain file that is no link.

    Raises:
        IntegrityError: it is something else.
    """
    with os.fdopen(open_file(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ended(job: JobFolder, attempt: int) -> float | None:
    """When an attempt's end was put on record, by the filesystem's clock."""
    path = job.end(attempt)
    return path.stat().st_mtime if path.exists() else None


def _check_job(recorded: JobSpec, expected: JobSpec) -> None:
    def commands(spec: JobSpec) -> list[tuple[list[str], str]]:
        return [(step.argv, step.cwd) for step in spec.steps]

    same = recorded.name == expected.name and recorded.product == expected.product
    if not same or commands(recorded) != commands(expected):
        raise IntegrityError(
            f"the job on record in {expected.folder} is not the one that the plan gives"
        )


def _attempt(job: JobFolder) -> tuple[int, str | None]:
    """The attempt that made the product: the one that ended well, else the last."""
    lines = job.lines()
    last = last_attempt(lines)
    if not last:
        raise IntegrityError(f"{job.root} has a product but no attempt on its ledger")
    good = [
        number
        for number in range(1, last + 1)
        if (end := job.ended(number)) is not None and end.exit_code == 0
    ]
    attempt = good[-1] if good else last
    ids = [line.job_id for line in lines if line.attempt <= attempt and line.job_id]
    queued = read(JobSpec, job.spec).queue is not None
    return attempt, ids[-1] if ids and queued else None


def _started(job: JobFolder, attempt: int) -> float | None:
    lines = [line for line in job.lines() if line.attempt == attempt]
    begun = [line.time for line in lines if line.event == "started"]
    return begun[0] if begun else lines[0].time if lines else None
