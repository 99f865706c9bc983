"""The dry run: the job graph as a tree, then every sbatch script, byte for byte as it would be
submitted. Writes nothing and asks no scheduler.

    python -m aevo.campaign rounds=2 cluster=h200 model=nemotron3_nano_30b dry_run=true
"""

import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.tree import Tree

from aevo.config.cluster import SlurmCluster
from aevo.config.schema import Config
from aevo.jobs.launch import argv, node_of_its_own
from aevo.jobs.script import dependency, executor
from aevo.leaderboard.configured import described
from aevo.records.job import JobSpec, Step
from aevo.start.forecast import campaign_jobs, forecast, planned_jobs


def show_graph(config: Config, numbers: list[int], command: str) -> None:
    """Prints graph, scripts, what they cost at most, and the line that submits them."""
    setup = forecast(config)
    console = Console(width=200, highlight=False, markup=False)
    tree = Tree(f"{setup.layout.root}: cluster {config.cluster.kind}, model {config.model.name}")
    jobs = [job for number in numbers for job in planned_jobs(setup, number)]
    first = list(campaign_jobs(setup))
    for job in first:
        tree.add(_line(job, config))
    for number in numbers:
        _branch(tree, config, number, [job for job in jobs if _round_of(job) == number])
    console.print(tree)
    jobs = [*first, *jobs]
    if isinstance(config.cluster, SlurmCluster):
        for job in jobs:
            print(script(job, config.cluster), end="")
    hours = sum(
        job.resources.gpus * job.resources.nodes * job.resources.time_min / 60 for job in jobs
    )
    console.print(
        f"\n# {len(jobs)} jobs; at most {hours:,.0f} GPU-hours for one training of each "
        f"candidate (up to {config.worker.trainings} are allowed)"
    )
    words = shlex.join(word for word in sys.argv[1:] if not word.startswith("dry_run="))
    console.print(f"# nothing was written or submitted; to run it:\n{command} {words}".rstrip())


def script(job: JobSpec, cluster: SlurmCluster) -> str:
    """One submission as text: sbatch's arguments, the script, and as comments what it runs."""
    after = [f"<{Path(folder).name}>" for folder in job.after]
    needs = [f"<{Path(folder).name}>" for folder in job.needs]
    made, command = executor(job, 1, cluster, dependency(after, needs))
    by = f", submitted by {Path(job.owner).name}" if job.owner else ""
    head = f"\n#==> {Path(job.folder).parents[1].name}/{job.name}{by}\n"
    head += f"#    {' '.join(['sbatch', *made.arguments])}\n"
    runs = "".join(f"# runs: {_run(job, step)}\n" for step in job.steps)
    entry = f"# runs: {job.entry} {shlex.join(job.arguments)}\n" if job.entry else ""
    return f"{head}{made.text(command)}{entry}{runs}"


def _run(job: JobSpec, step: Step) -> str:
    """A step's command; of one that is started by nodes, also what they start."""
    found = shlex.join(argv(job, step))
    if not node_of_its_own(job, step):
        return found
    ranks = job.resources.tasks_per_node
    return f"{found}  # in one sandbox a node, {ranks} ranks of: {shlex.join(step.argv)}"


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
        words.append(
            f"{asked.nodes} node(s), {asked.gpus} GPU(s) each, {asked.cpus} CPU(s), "
            f"{asked.time_min} min"
        )
    waits = [f"afterok {Path(folder).name}" for folder in job.needs]
    if job.after:
        names = [Path(folder).name for folder in job.after]
        waits.append(
            f"afterany {names[0]} … {names[-1]}" if len(names) > 1 else f"afterany {names[0]}"
        )
    return " ".join([*words, *(f"({item})" for item in waits)])


def _round_of(job: JobSpec) -> int:
    return int(Path(job.folder).parents[1].name.removeprefix("round-"))
