"""The job graph of a round, as pure functions: which jobs there are and what each waits for.

    plan -> c00-worker ... -> collector -> meta -> plan of the next round
              |  submits c00-train-K, c00-evaluate-K            (to the GPU partition)
                               |  submits leaderboard

Workers are jobs of their own that compute next to nothing. The collector runs after all of them,
however they ended; meta needs the collector, the next round's plan needs meta. On Slurm the whole
campaign is submitted at once; the plan of a round whose policy exists is made by the driver.
"""


from collections.abc import Sequence
from pathlib import Path

from aevo.config.schema import ModelSettings
from aevo.config.trainer import EvaluatorSettings, TrainerSettings, placeholders
from aevo.files.paths import Layout, RoundLayout, RunLayout
from aevo.records.job import Confinement, JobSpec, Resources, Setting, Step
from aevo.substrate.frozen import Substrate

# Workers, collector, meta and plan compute next to nothing: they take no slot of the machine.
# Their limit on Slurm is cluster.control.time_min; they outlive it by being requeued.
# What a job of the loop's own runs, by its kind; the others run commands of the substrate.
ENTRIES = {
    "plan": "aevo.plan.candidates:main", "worker": "aevo.work.worker:main",
    "collector": "aevo.evidence.collector:main", "meta": "aevo.meta.step:main",
}
LIGHT = Resources(slots=0, time_min=7 * 24 * 60)


def candidate_ids(n: int) -> list[str]:
    """c00 (the anchor), c01, …"""
    return [f"c{index:02d}" for index in range(n)]


def round_jobs(
    layout: Layout, campaign: str, number: int, n: int, planned: bool = True,
    code: str | None = None,
) -> list[JobSpec]:
    """The jobs of a round that its driver submits, each after those it waits for.

    Args:
        planned: False for a round whose policy does not exist yet: a job plans it then.
        code: the folder of the package that the jobs run.
    """
    files = layout.round(number)

    def job(
        name: str, kind: str, product: Path, arguments: tuple[str, ...] = (),
        after: list[str] | None = None, needs: list[str] | None = None,
    ) -> JobSpec:
        return JobSpec.model_validate({
            "name": name, "kind": kind, "campaign": campaign,
            "folder": str(files.jobs / name), "product": str(product),
            "entry": ENTRIES[kind],
            "arguments": [str(layout.root), str(number), *arguments],
            "after": after or [], "needs": needs or [], "resources": LIGHT, "code": code,
        })

    found, before = [], []
    if not planned:
        meta = layout.round(number - 1).jobs / "meta"
        found.append(job("plan", "plan", files.plan, needs=[str(meta)]))
        before = [found[0].folder]
    workers = [
        job(worker_name(item), "worker", files.candidate(item).manifest, (item,), needs=before)
        for item in candidate_ids(n)
    ]
    collector = job("collector", "collector", files.evidence,
                    after=[item.folder for item in workers], needs=before)
    meta_job = job("meta", "meta", layout.policy(number + 1), needs=[collector.folder])
    return [*found, *workers, collector, meta_job]


def worker_name(candidate: str) -> str:
    """Name of a candidate's worker job."""
    return f"{candidate}-worker"


def training_job(
    files: RoundLayout, run: RunLayout, substrate: Substrate, model: ModelSettings,
    trainer: TrainerSettings, base: str, seed: int, campaign: str, sandbox: Setting,
    sealed: list[str], rows: str | None = None,
) -> JobSpec:
    """The training job of a run: data, then training, in the snapshot of the fork. Both run code
    of the worker's, so both are confined: they see fork, substrate and base (and the first the real
    `rows`), but not the `sealed` files, and write the run's own folders."""
    data = data_step(substrate, run.fork, model, seed, str(run.data), rows)
    train = substrate.command("train", run.fork, variant=trainer.name, data=run.data, base=base,
                              seed=seed, out=run.output, threads=model.train.cpus,
                              **placeholders(trainer))
    frozen, resources = str(substrate.root), trainer.over(model.train)
    steps = [
        data.model_copy(update={"confine": confinement(
            model.train, [frozen, *([rows] if rows else [])], [str(run.data)], sealed)}),
        train.model_copy(update={"confine": confinement(
            resources, [frozen, base, str(run.data)], [str(run.output)], sealed)}),
    ]
    job = _run_job("train", files, run, campaign, run.result, resources, steps)
    return job.model_copy(update={"sandbox": sandbox})


def data_step(
    substrate: Substrate, fork: Path, model: ModelSettings, seed: int, out: str, rows: str | None
) -> Step:
    """The command that builds a fork's training set, with the folder of real rows if any."""
    if rows is None:
        return substrate.command("data", fork, preset=model.preset, seed=seed, out=out)
    return substrate.command("data", fork, variant="real", preset=model.preset, seed=seed, out=out,
                             rows=rows)


def confinement(
    resources: Resources, read: list[str], write: list[str], hide: list[str]
) -> Confinement:
    """What worker-written code of a job may touch and use up."""
    return Confinement(
        read=read, write=write, hide=hide, memory_gb=resources.memory_gb, disk_gb=resources.disk_gb,
        file_gb=resources.disk_gb, log_gb=0.25, devices=resources.gpus > 0,
        network=resources.ranks > 1,
    )


def evaluation_job(
    layout: Layout, files: RoundLayout, run: RunLayout, substrate: Substrate, model: ModelSettings,
    evaluator: EvaluatorSettings, base: str, adapters: dict[str, Path], campaign: str,
) -> JobSpec:
    """The evaluation job of a run: the pristine substrate, no code of the fork."""
    return _run_job(
        "evaluate", files, run, campaign, run.scores, model.evaluate, [
            substrate.command("evaluate", adapters=adapters, variant=evaluator.name,
                              items=layout.dev_items, base=base, out=run.evaluation,
                              **placeholders(evaluator)),
        ],
    )


def baseline_job(
    layout: Layout, substrate: Substrate, model: ModelSettings, evaluator: EvaluatorSettings,
    base: str, campaign: str, code: str,
) -> JobSpec:
    """The evaluation of the bare base checkpoint on dev: row 0 of the report."""
    return JobSpec(
        name="baseline", kind="evaluate", campaign=campaign, folder=str(layout.jobs / "baseline"),
        product=str(layout.baseline / "scores.json"),
        steps=[substrate.command("baseline", variant=evaluator.name, items=layout.dev_items,
                                 base=base, out=layout.baseline, **placeholders(evaluator))],
        resources=model.evaluate, code=code,
    )


def leaderboard_job(
    layout: Layout, number: int, substrate: Substrate, model: ModelSettings,
    evaluator: EvaluatorSettings, base: str, adapters: dict[str, Path], campaign: str,
) -> JobSpec:
    """The scoring of a round's submissions on the hidden items, in the vault."""
    out = layout.vault / "board" / f"round-{number:02d}"
    return JobSpec(
        name="leaderboard", kind="leaderboard", campaign=campaign,
        folder=str(layout.round(number).jobs / "leaderboard"), product=str(out / "scores.json"),
        steps=[substrate.command("evaluate", adapters=adapters, variant=evaluator.name,
                                 items=layout.hidden_items, base=base, out=out,
                                 **placeholders(evaluator))],
        resources=model.evaluate,
    )


def _run_job(
    kind: str, files: RoundLayout, run: RunLayout, campaign: str, product: Path,
    resources: Resources, steps: Sequence[Step],
) -> JobSpec:
    candidate = run.candidate.name
    name = f"{candidate}-{kind}-{run.number}"
    return JobSpec.model_validate({
        "name": name, "kind": kind, "campaign": campaign, "folder": str(files.jobs / name),
        "product": str(product), "steps": list(steps), "resources": resources,
        "attempts": 1 if kind == "train" else 2,
        "owner": str(files.jobs / worker_name(candidate)),
    })
