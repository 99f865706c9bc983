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
from aevo.plan.setup import Setup
from aevo.records.job import JobSpec
from aevo.start import snapshot
from aevo.start.items import present
from aevo.substrate.frozen import Substrate, source_of
from aevo.substrate.offered import check_choices


def forecast(config: Config) -> Setup:
    """What the campaign will be set up with: the operator's substrate, at the place of the copy
    that the campaign will have; nothing of it need be there yet."""
    layout = Layout(config.root)
    substrate = Substrate(layout.substrate, source_of(config).file)
    real = layout.source_report.exists() or present(config, substrate) is not None
    return Setup(
        layout,
        config.campaign,
        config,
        substrate,
        base=str(layout.substrate / config.model.base),
        rows=str(layout.rows) if real else None,
    )


def ask_slurm(config: Config, number: int) -> None:
    """Lets Slurm judge, before anything is submitted, every kind of job that the round will have.

    Raises:
        ConfigError: it refuses some of them, with its words and the keys to change.
    """
    if isinstance(config.cluster, SlurmCluster):
        setup = forecast(config)
        check([*campaign_jobs(setup), *planned_jobs(setup, number)], config.cluster)


def campaign_jobs(setup: Setup) -> Iterator[JobSpec]:
    """The jobs that a campaign submits once, when it starts."""
    job = baseline_job(setup, str(snapshot.place(setup.layout)))
    if not Path(job.product).exists():
        yield fitted(job, setup.config.cluster)


def planned_jobs(setup: Setup, number: int) -> Iterator[JobSpec]:
    """The round's jobs in the order of submission, with one training each."""
    config, layout = setup.config, setup.layout
    planned = number == 1 or layout.policy(number).exists()
    check_choices(setup.substrate, config.trainer, config.evaluator, config.model.train)
    seed = derive_seed(config.seed, "train", number, 0)
    code = str(snapshot.place(layout))
    for job in round_jobs(setup, number, planned, code):
        yield fitted(job, config.cluster)
        if job.kind == "worker":
            run = layout.round(number).candidate(job.arguments[2]).run(1)
            checkpoints = {"CHECKPOINT": run.output / "checkpoints"}
            for inner in (training_job(setup, run, seed), evaluation_job(setup, run, checkpoints)):
                yield fitted(inner.model_copy(update={"code": code}), config.cluster)
        if job.kind == "collector" and config.leaderboard.kind == "holdout":
            board = leaderboard_job(setup, number, {})
            # what will be submitted is not known yet, so no command is shown
            yield fitted(board.model_copy(update={"code": code, "steps": []}), config.cluster)
