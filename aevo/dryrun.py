"""The dry run: the job graph as a tree, then every sbatch script, byte for byte as it would be
submitted. Writes nothing and asks no scheduler.

    python -m aevo.campaign rounds=2 cluster=h200 model=nemotron3_nano_30b dry_run=true
"""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.tree import Tree

from aevo import snapshot
from aevo.choice import check_choices
from aevo.cluster import SlurmCluster
from aevo.config import Config
from aevo.graph import (
    baseline_job,
    evaluation_job,
    leaderboard_job,
    round_jobs,
    training_job,
)
from aevo.items import present
from aevo.jobs.launch import argv
from aevo.jobs.preflight import check
from aevo.jobs.script import dependency, executor
from aevo.jobs.submit import fitted
from aevo.layout import Layout
from aevo.leaderboard.opening import described
from aevo.plan import derive_seed
from aevo.records.job import JobSpec
from aevo.substrate import DEFAULT, Substrate, open_substrate


def show_graph(config: Config, numbers: list[int], command: str) -> None:
    """Prints graph, scripts, what they cost at most, and the line that submits them."""
    layout = Layout(config.root)
    console = Console(width=200, highlight=False, markup=False)
    tree = Tree(f"{layout.root}: cluster {config.cluster.kind}, model {config.model.name}")
    jobs = [job for number in numbers for job in planned_jobs(config, layout, number)]
    first = list(campaign_jobs(config, layout))
    for job in first:
        tree.add(_line(job, config))
    for number in numbers:
        _branch(tree, config, number, [job for job in jobs if _round_of(job) == number])
    console.print(tree)
    jobs = [*first, *jobs]
    if isinstance(config.cluster, SlurmCluster):
        for job in jobs:
            print(script(job, config.cluster), end="")
    hours = sum(job.resources.gpus * job.resources.nodes * job.resources.time_min / 60
                for job in jobs)
    console.print(f"\n# {len(jobs)} jobs; at most {hours:,.0f} GPU-hours for one training of each "
                  f"candidate (up to {config.worker.trainings} are allowed)")
    words = shlex.join(word for word in sys.argv[1:] if not word.startswith("dry_run="))
    console.print(f"# nothing was written or submitted; to run it:\n{command} {words}".rstrip())


def ask_slurm(config: Config, number: int) -> None:
    """Lets Slurm judge, before anything is submitted, every kind of job that the round will have.

    Raises:
        ConfigError: it refuses some of them, with its words and the keys to change.
    """
    if isinstance(config.cluster, SlurmCluster):
        layout = Layout(config.root)
        check([*campaign_jobs(config, layout), *planned_jobs(config, layout, number)],
              config.cluster)


def script(job: JobSpec, cluster: SlurmCluster) -> str:
    """One submission as text: sbatch's arguments, the script, and as comments what it runs."""
    after = [f"<{Path(folder).name}>" for folder in job.after]
    needs = [f"<{Path(folder).name}>" for folder in job.needs]
    made, command = executor(job, 1, cluster, dependency(after, needs))
    by = f", submitted by {Path(job.owner).name}" if job.owner else ""
    head = f"\n#==> {Path(job.folder).parents[1].name}/{job.name}{by}\n"
    head += f"#    {' '.join(['sbatch', *made.arguments])}\n"
    runs = "".join(f"# runs: {shlex.join(argv(job, step))}\n" for step in job.steps)
    entry = f"# runs: {job.entry} {shlex.join(job.arguments)}\n" if job.entry else ""
    return f"{head}{made.text(command)}{entry}{runs}"


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


def _branch(tree: Tree, config: Config, number: int, jobs: list[JobSpec]) -> None:
    branch = tree.add(f"round {number}")
    owners: dict[str, Tree] = {}
    for job in jobs:
        place = branch
        if job.owner:
            place = owners[Path(job.owner).name]
        elif job.kind == "leaderboard":
            place = owners["collector"]
        owners[job.name] = place.add(_line(job, config))
        if job.kind == "collector" and config.leaderboard.kind != "holdout":
            owners[job.name].add(described(config))


def _line(job: JobSpec, config: Config) -> str:
    words = [job.name]
    asked = job.resources
    if isinstance(config.cluster, SlurmCluster):
        partition = config.cluster.options(job.kind, asked).partition
        words.append(f"[{partition or 'default partition'}]")
        words.append(f"{asked.nodes} node(s), {asked.gpus} GPU(s) each, {asked.cpus} CPU(s), "
                     f"{asked.time_min} min")
    waits = [f"afterok {Path(folder).name}" for folder in job.needs]
    if job.after:
        names = [Path(folder).name for folder in job.after]
        waits.append(f"afterany {names[0]} … {names[-1]}" if len(names) > 1 else
                     f"afterany {names[0]}")
    return " ".join([*words, *(f"({item})" for item in waits)])


def _round_of(job: JobSpec) -> int:
    return int(Path(job.folder).parents[1].name.removeprefix("round-"))
