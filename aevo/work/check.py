"""What shows before a run counts: a recipe that is no YAML, Python that does not compile, data that
do not build."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from aevo.config.cluster import SlurmCluster
from aevo.errors import AevoError
from aevo.plan.graph import data_step
from aevo.plan.setup import OpenCampaign
from aevo.substrate.recipe import load_recipe
from aevo.work.shell import run_shell

COMPILE = """import sys
for name in sys.argv[1:]:
    compile(open(name, "rb").read(), name, "exec", dont_inherit=True)"""
LIMIT_S = 60  # data that take longer to build are built by the run itself
SAID = 15  # lines of a failed build that are shown


class CheckError(AevoError):
    """The fork cannot be trained as it is; the text goes back to the agent."""


def check(
    campaign: OpenCampaign, fork: Path, seed: int, count: Callable[[float], None] = lambda _: None
) -> str:
    """Checks a fork without spending a run; what was found to be in order.

    Args:
        count: is told the processor seconds of what ran, worker-written code that it is.

    Raises:
        CheckError: the first fault; SubstrateError: the recipe is not YAML, a file no plain one.
    """
    files = [path.relative_to(fork).as_posix() for path in campaign.substrate.plain_files(fork)]
    load_recipe(fork / campaign.substrate.file.recipe)
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
    *build, took = counted(campaign, fork, build_command(campaign, fork, seed), LIMIT_S)
    count(took)
    if build[0].startswith("timed out"):
        return f"the code compiles; the data take more than {LIMIT_S} s and were not waited for"
    _expect((build[0], build[1]), "the data do not build")
    return f"the recipe is YAML, {len(code)} Python files compile, the data build"


def _expect(done: tuple[str, str], fault: str) -> None:
    """Refuses the fork unless a command went well."""
    ended, output = done
    if ended != "exit code 0":
        lines = "\n".join(output.strip().splitlines()[-SAID:])
        raise CheckError(f"{fault} ({ended}):\n{lines}")


def build_command(campaign: OpenCampaign, fork: Path, seed: int) -> str:
    """Shell command that builds the fork's data set into scratch space."""
    step = data_step(campaign, fork, seed, "SCRATCH")
    return shlex.join(step.argv).replace("SCRATCH", '"$TMPDIR/check"')


def counted(
    campaign: OpenCampaign, fork: Path, command: str, timeout_s: int, processor_s: int | None = None
) -> tuple[str, str, float]:
    """Runs a command of the agent's in its fork, in the sandbox; how it ended, what it said, and
    the processor seconds that it took, of `processor_s` at most."""
    rows = [campaign.rows] if campaign.rows else []
    return run_shell(
        command,
        fork,
        [str(campaign.substrate.root.resolve()), *rows],
        campaign.sealed,
        campaign.config.sandbox,
        timeout_s,
        processor_s,
    )
