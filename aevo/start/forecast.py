"""The jobs that a campaign will have, known before it starts: for Slurm's word, for the dry run."""

from collections.abc import Iterator
from pathlib import Path

from aevo.config.cluster import SlurmCluster
from aevo.config.schema import Config
from aevo.files.paths import Layout
from aevo.jobs.submit import fitted
from aevo.jobs.trial import check
from aevo.plan.candidates import derive_seed
from aevo.plan.graph import baseline_job, evaluation_job, leaderboard_job, round_jobs, training_job
from aevo.records.job import JobSpec
from aevo.start import snapshot
from aevo.start.items import present
from aevo.substrate.frozen import DEFAULT, Substrate, open_substrate
from aevo.substrate.offered import check_choices


def ask_slurm(config: Config, number: int) -> None:
    """Lets Slurm judge, before anything is submitted, every kind of job that the round will have.

    Raises:
        ConfigError: it refuses some of them, with its words and the keys to change.
    """
    if isinstance(config.cluster, SlurmCluster):
        layout = Layout(config.root)
        check([*campaign_jobs(config, layout), *planned_jobs(config, layout, number)],
              config.cluster)


def campaign_jobs(config: Config, layout: Layout) -> Iterator[JobSpec]:
    """The jobs that a campaign submits once, when it starts."""
    job = baseline_job(layout, _substrate(config, layout), config.model, config.evaluator,
                       _base(config, layout), config.campaign, str(snapshot.place(layout)))
    if not Path(job.product).exists():
        yield fitted(job, config.cluster)


def planned_jobs(config: Config, layout: Layout, number: int) -> Iterator[JobSpec]:
    """The round's jobs in the order of submission, with one training each."""
    planned = number == 1 or layout.policy(number).exists()
    substrate, base, files = _substrate(config, layout), _base(config, layout), layout.round(number)
    check_choices(substrate, config.trainer, config.evaluator, config.model.train)
    seed = derive_seed(config.seed, "train", number, 0)
    code = str(snapshot.place(layout))
    real = layout.source_report.exists() or present(config, substrate) is not None
    rows = str(layout.rows) if real else None
    for job in round_jobs(layout, config.campaign, number, config.worker.n, planned, code):
        yield fitted(job, config.cluster)
        if job.kind == "worker":
            run = files.candidate(job.arguments[2]).run(1)
            for inner in (
                training_job(files, run, substrate, config.model, config.trainer, base, seed,
                             config.campaign, config.sandbox, [], rows),
                evaluation_job(layout, files, run, substrate, config.model, config.evaluator, base,
                               {"CHECKPOINT": run.output / "checkpoints"}, config.campaign),
            ):
                yield fitted(inner.model_copy(update={"code": code}), config.cluster)
        if job.kind == "collector" and config.leaderboard.kind == "holdout":
            board = leaderboard_job(layout, number, substrate, config.model,
                                    config.evaluator, base, {}, config.campaign)
            # what will be submitted is not known yet, so no command is shown
            yield fitted(board.model_copy(update={"code": code, "steps": []}), config.cluster)


def _substrate(config: Config, layout: Layout) -> Substrate:
    """The operator's substrate, at the place of the copy that the campaign will have."""
    source = open_substrate(Path(config.substrate) if config.substrate else DEFAULT)
    return Substrate(layout.substrate, source.file)


def _base(config: Config, layout: Layout) -> str:
    base = Path(config.model.base)
    return str(base if base.is_absolute() else layout.substrate / base)
