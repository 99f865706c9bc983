"""What shows before a run counts: a recipe that is no YAML, Python that does not compile, data that
do not build."""

import copy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aevo.config.cluster import SlurmCluster
from aevo.config.trainer import placeholders
from aevo.errors import AevoError
from aevo.files.keys import set_key
from aevo.plan.graph import data_step
from aevo.plan.setup import OpenCampaign
from aevo.substrate.recipe import dump_recipe
from aevo.work.shell import LIMITS, run_shell

COMPILE = """import sys
for name in sys.argv[1:]:
    compile(open(name, "rb").read(), name, "exec", dont_inherit=True)"""
LIMIT_S = 60  # data that take longer to build are built by the run itself
SAID = 15  # lines of a failed build that are shown


class CheckError(AevoError):
    """The fork cannot be trained as it is; the text goes back to the agent."""


def check(
    campaign: OpenCampaign,
    fork: Path,
    seed: int,
    recipe: dict[str, Any],
    count: Callable[[float], None] = lambda _: None,
) -> str:
    """Checks a fork without spending a run; what was found to be in order.

    Args:
        count: is told the processor seconds of what ran, worker-written code that it is.

    Raises:
        CheckError: the first fault; SubstrateError: the recipe is not YAML, a file no plain one.
    """
    files = [path.relative_to(fork).as_posix() for path in campaign.substrate.plain_files(fork)]
    code = [name for name in files if name.endswith(".py")]
    # in the sandbox: the compiler is no match for a text that was written to bring it down
    *compiled, took = counted(
        campaign, fork, shlex.join([sys.executable, "-c", COMPILE, *code]), LIMIT_S
    )
    count(took)
    _expect((compiled[0], compiled[1]), "the code does not compile")
    cluster = campaign.config.cluster
    if isinstance(cluster, SlurmCluster) and cluster.container.kind != "none":
        return (
            f"the recipe is YAML, {len(code)} Python files compile; the training stack is in a "
            "container, so no data were built"
        )
    found = f"the recipe is YAML, {len(code)} Python files compile"
    few = shortened(recipe, campaign.substrate.file.trial)
    *build, took = counted(campaign, fork, build_command(campaign, fork, seed, few), LIMIT_S)
    count(took)
    if build[0].startswith("timed out"):
        return f"{found}; the data take more than {LIMIT_S} s and were not waited for"
    _expect((build[0], build[1]), "the data do not build")
    command = train_command(campaign, fork, seed, few) if few and trains_here(campaign) else None
    if command is None:
        return f"{found}, the data build"
    *steps, took = counted(campaign, fork, command, LIMIT_S)
    count(took)
    if steps[0].startswith("timed out"):
        return f"{found}, the data build; its first steps take more than {LIMIT_S} s"
    _expect((steps[0], steps[1]), "it does not train")
    return f"{found}, the data build, the first steps train"


def shortened(recipe: dict[str, Any], trial: dict[str, Any]) -> str | None:
    """The recipe as a trial of a few rows and steps, as text; None where the substrate does not say
    how."""
    if not trial:
        return None
    short = copy.deepcopy(recipe)
    for key, value in trial.items():
        set_key(short, key, value)
    return dump_recipe(short)


def trains_here(campaign: OpenCampaign) -> bool:
    """True where the model trains in one process without a GPU, as a shell command can."""
    asked = campaign.config.trainer.over(campaign.config.model.train)
    memory = asked.memory_gb or 0.0
    return asked.gpus == 0 and asked.ranks == 1 and memory <= (LIMITS.memory_gb or 0.0)


def _expect(done: tuple[str, str], fault: str) -> None:
    """Refuses the fork unless a command went well."""
    ended, output = done
    if ended != "exit code 0":
        lines = "\n".join(output.strip().splitlines()[-SAID:])
        raise CheckError(f"{fault} ({ended}):\n{lines}")


def build_command(campaign: OpenCampaign, fork: Path, seed: int, recipe: str | None = None) -> str:
    """Shell command that builds the fork's data set into scratch space, as another `recipe` says
    where one is given."""
    step = data_step(campaign, fork, seed, "SCRATCH/data")
    return _in_scratch(campaign, step.argv, recipe)


def train_command(campaign: OpenCampaign, fork: Path, seed: int, recipe: str) -> str | None:
    """Shell command that builds the data and trains on them, in scratch space; None where the
    stack's command cannot be given another recipe."""
    trainer = campaign.config.trainer
    step = campaign.substrate.command(
        "train",
        fork,
        variant=trainer.name,
        data="SCRATCH/data",
        base=campaign.base,
        seed=seed,
        out="SCRATCH/out",
        threads=1,
        **placeholders(trainer),
    )
    if campaign.substrate.file.recipe not in step.argv:
        return None
    build = build_command(campaign, fork, seed, recipe)
    return f"{build} > /dev/null && {_in_scratch(campaign, step.argv, recipe)}"


def _in_scratch(campaign: OpenCampaign, argv: list[str], recipe: str | None) -> str:
    name = campaign.substrate.file.recipe
    words = ["SCRATCH/recipe.yaml" if recipe and word == name else word for word in argv]
    command = shlex.join(words).replace("SCRATCH", '"$TMPDIR"')
    if recipe is None:
        return command
    return f'printf %s {shlex.quote(recipe)} > "$TMPDIR"/recipe.yaml && {command}'


def counted(
    campaign: OpenCampaign, fork: Path, command: str, timeout_s: int, processor_s: int | None = None
) -> tuple[str, str, float]:
    """Runs a command of the agent's in its fork, in the sandbox; how it ended, what it said, and
    the processor seconds that it took, of `processor_s` at most."""
    rows = [campaign.rows] if campaign.rows else []
    base = [campaign.base] if campaign.base else []
    return run_shell(
        command,
        fork,
        [str(campaign.substrate.root.resolve()), *rows, *base],
        campaign.sealed,
        campaign.config.sandbox,
        timeout_s,
        processor_s,
    )
