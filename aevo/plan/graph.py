"""The job graph of a round, as pure functions: which jobs there are and what each waits for.

    plan -> c00-worker ... -> collector -> meta -> plan of the next round
              |  submits c00-train-K, c00-evaluate-K            (to the GPU partition)
                               |  submits leaderboard

Workers are jobs of their own that compute next to nothing. The collector runs after all of them,
however they ended; meta needs the collector, the next round's plan needs meta. On Slurm the whole
campaign is submitted at once; the plan of a round whose policy exists is made by the driver.
"""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aevo.config.trainer import placeholders
from aevo.files.paths import RunLayout
from aevo.plan.setup import Setup
from aevo.records.job import Confinement, JobSpec, Resources, Step, Watchdog

# What a job of the loop's own runs, by its kind; the others run commands of the substrate.
ENTRIES = {
    "plan": "aevo.plan.candidates:main",
    "worker": "aevo.work.worker:main",
    "collector": "aevo.evidence.collector:main",
    "meta": "aevo.meta.step:main",
}
# Workers, collector, meta and plan compute next to nothing: they take no slot of the machine.
# Their limit on Slurm is cluster.control.time_min; they outlive it by being requeued.
LIGHT = Resources(slots=0, time_min=7 * 24 * 60)


def candidate_ids(n: int) -> list[str]:
    """c00 (the anchor), c01, …"""
    return [f"c{index:02d}" for index in range(n)]


def round_jobs(setup: Setup, number: int, planned: bool, code: str) -> list[JobSpec]:
    """The jobs of a round that its driver submits, each after those it waits for.

    Args:
        planned: False for a round whose policy does not exist yet: a job plans it then.
        code: the folder of the package that the jobs run.
    """
    layout, files = setup.layout, setup.layout.round(number)

    def job(
        name: str,
        kind: str,
        product: Path,
        arguments: tuple[str, ...] = (),
        after: list[str] | None = None,
        needs: list[str] | None = None,
    ) -> JobSpec:
        return JobSpec.model_validate(
            {
                "name": name,
                "kind": kind,
                "campaign": setup.name,
                "folder": str(files.jobs / name),
                "product": str(product),
                "entry": ENTRIES[kind],
                "arguments": [str(layout.root), str(number), *arguments],
                "after": after or [],
                "needs": needs or [],
                "resources": LIGHT,
                "code": code,
            }
        )

    found, before = [], []
    if not planned:
        meta = layout.round(number - 1).jobs / "meta"
        found.append(job("plan", "plan", files.plan, needs=[str(meta)]))
        before = [found[0].folder]
    workers = [
        job(worker_name(item), "worker", files.candidate(item).manifest, (item,), needs=before)
        for item in candidate_ids(setup.config.worker.n)
    ]
    collector = job(
        "collector",
        "collector",
        files.evidence,
        after=[item.folder for item in workers],
        needs=before,
    )
    meta_job = job("meta", "meta", layout.policy(number + 1), needs=[collector.folder])
    return [*found, *workers, collector, meta_job]


def worker_name(candidate: str) -> str:
    """Name of a candidate's worker job."""
    return f"{candidate}-worker"


def training_job(setup: Setup, run: RunLayout, seed: int) -> JobSpec:
    """The training job of a run: data, then training, in the snapshot of the fork. Both run code
    of the worker's, so both are confined: they see fork, substrate and base (and the first the real
    rows), but not the sealed files, and write the run's own folders."""
    substrate, trainer, asked = setup.substrate, setup.config.trainer, setup.config.model.train
    data = data_step(setup, run.fork, seed, str(run.data))
    train = substrate.command(
        "train",
        run.fork,
        variant=trainer.name,
        data=run.data,
        base=setup.base,
        seed=seed,
        out=run.output,
        threads=asked.cpus,
        **placeholders(trainer),
    )
    frozen, resources = str(substrate.root), trainer.over(asked)
    rows, sealed = [setup.rows] if setup.rows else [], setup.sealed
    steps = [
        data.model_copy(
            update={"confine": confinement(asked, [frozen, *rows], [str(run.data)], sealed)}
        ),
        train.model_copy(
            update={
                "cache": str(run.kernels(_python(setup))),
                "confine": confinement(
                    resources, [frozen, setup.base, str(run.data)], [str(run.output)], sealed
                ),
            }
        ),
    ]
    job = _run_job(setup, "train", run, run.result, resources, steps)
    watchdog = _watchdog(setup, [run.metrics], training=True)
    return job.model_copy(update={"sandbox": setup.config.sandbox, "watchdog": watchdog})


def _watchdog(setup: Setup, files: list[Path], training: bool = False) -> Watchdog | None:
    """When a job hangs. Some evaluators write nothing before they are done: only of one that has
    begun to write is more expected."""
    asked = setup.config.watchdog
    if asked.steps is None:
        return None
    return Watchdog(
        files=[str(path) for path in files],
        steps=asked.steps,
        least_s=60 * asked.least_min,
        first_s=60 * asked.first_min if training else None,
        record=str(setup.layout.hangs),
    )


def _python(setup: Setup) -> str:
    """A short name of what trainings run in: kernels of one environment are of no use in another,
    and may be wrong there."""
    cluster = setup.config.cluster
    image = cluster.container.image if cluster.kind == "slurm" else None
    return hashlib.sha256(f"{sys.prefix} {image}".encode()).hexdigest()[:12]


def data_step(setup: Setup, fork: Path, seed: int, out: str) -> Step:
    """The command that builds a fork's training set, with the folder of real rows if any."""
    real: dict[str, Any] = {"variant": "real", "rows": setup.rows} if setup.rows else {}
    return setup.substrate.command(
        "data", fork, preset=setup.config.model.preset, seed=seed, out=out, **real
    )


def confinement(
    resources: Resources, read: list[str], write: list[str], hide: list[str]
) -> Confinement:
    """What worker-written code of a job may touch and use up."""
    return Confinement(
        read=read,
        write=write,
        hide=hide,
        memory_gb=resources.memory(resources.gpus),
        disk_gb=resources.disk_gb,
        file_gb=resources.disk_gb,
        log_gb=0.25,
        devices=resources.gpus > 0,
        network=resources.nodes > 1,
        loopback=resources.ranks > 1,
    )


def evaluation_job(setup: Setup, run: RunLayout, adapters: dict[str, Path]) -> JobSpec:
    """The evaluation job of a run: the pristine substrate, no code of the fork."""
    step = _evaluate(setup, setup.layout.dev_items, run.evaluation, adapters)
    job = _run_job(setup, "evaluate", run, run.scores, setup.config.model.evaluate, [step])
    return job.model_copy(update={"watchdog": _watchdog(setup, [run.evaluation])})


def baseline_job(setup: Setup, code: str) -> JobSpec:
    """The evaluation of the bare base checkpoint on dev: row 0 of the report."""
    layout = setup.layout
    return JobSpec(
        name="baseline",
        kind="evaluate",
        campaign=setup.name,
        folder=str(layout.jobs / "baseline"),
        product=str(layout.baseline / "scores.json"),
        steps=[_evaluate(setup, layout.dev_items, layout.baseline)],
        resources=setup.config.model.evaluate,
        watchdog=_watchdog(setup, [layout.baseline]),
        code=code,
    )


def leaderboard_job(setup: Setup, number: int, adapters: dict[str, Path]) -> JobSpec:
    """The scoring of a round's submissions on the hidden items, in the vault."""
    layout = setup.layout
    out = layout.vault / "board" / f"round-{number:02d}"
    return JobSpec(
        name="leaderboard",
        kind="leaderboard",
        campaign=setup.name,
        folder=str(layout.round(number).jobs / "leaderboard"),
        product=str(out / "scores.json"),
        steps=[_evaluate(setup, layout.hidden_items, out, adapters)],
        resources=setup.config.model.evaluate,
        watchdog=_watchdog(setup, [out]),
    )


def _evaluate(
    setup: Setup, items: Path, out: Path, adapters: dict[str, Path] | None = None
) -> Step:
    """Scores adapters, or the bare base without any, by the configured evaluator."""
    evaluator = setup.config.evaluator
    return setup.substrate.command(
        "baseline" if adapters is None else "evaluate",
        adapters=adapters,
        variant=evaluator.name,
        items=items,
        base=setup.base,
        out=out,
        **placeholders(evaluator),
    )


def _run_job(
    setup: Setup,
    kind: str,
    run: RunLayout,
    product: Path,
    resources: Resources,
    steps: Sequence[Step],
) -> JobSpec:
    candidate = run.candidate.name
    name = f"{candidate}-{kind}-{run.number}"
    return JobSpec.model_validate(
        {
            "name": name,
            "kind": kind,
            "campaign": setup.name,
            "folder": str(run.jobs / name),
            "product": str(product),
            "steps": list(steps),
            "resources": resources,
            "attempts": 1 if kind == "train" else 2,
            "owner": str(run.jobs / worker_name(candidate)),
        }
    )
