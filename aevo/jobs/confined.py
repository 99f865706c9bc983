"""A step's command inside of the sandbox that holds on this machine; all ranks of a node in one."""

from collections.abc import Sequence
from pathlib import Path

from aevo import sandbox
from aevo.jobs.launch import RANKS
from aevo.records.job import JobSpec, Step


def confined(
    spec: JobSpec, step: Step, command: Sequence[str], scratch: str, variables: dict[str, str]
) -> list[str]:
    """The argument vector to run instead of `command`, which is the step's or starts its ranks.

    Args:
        scratch: a folder of this node's, which becomes the command's home; `variables` says so.

    Raises:
        SandboxError: nothing confines here, and the user did not say `sandbox=none`.
    """
    if step.confine is None:
        return list(command)
    if spec.launch.container.kind != "none" and spec.sandbox != "none":
        raise sandbox.SandboxError(
            "worker-written code in a container of the site's is not confined by aevo",
            "set sandbox=none to rely on the container alone",
        )
    kind = sandbox.require(spec.sandbox)
    if kind == "none":
        print("WARNING: sandbox=none: worker-written code runs unconfined", flush=True)
        return list(command)
    for folder in step.confine.write:
        Path(folder).mkdir(parents=True, exist_ok=True)
    variables["HOME"] = scratch
    shared = step.distributed and spec.resources.ranks > 1
    allowed = step.confine.model_copy(
        update={
            "read": [*step.confine.read, *([str(RANKS)] if shared else [])],
            "write": [*step.confine.write, scratch],
            # Ranks of one node meet on a loopback of their own; several nodes need the network.
            "network": shared and spec.resources.nodes > 1,
            "loopback": shared,
        }
    )
    return sandbox.wrap(command, step.cwd, variables, allowed, kind)
