"""The shell of a candidate's agent within its budget of processor seconds."""

from pathlib import Path

from aevo.errors import AevoError
from aevo.work.broker import Broker
from aevo.work.budget import shell_seconds, spend_shell
from aevo.work.check import counted


class ShellSpent(AevoError):
    """The shell's budget is spent; the text goes back to the agent."""


def metered(broker: Broker, fork: Path, command: str, timeout_s: int) -> str:
    """Runs one command and counts it in the trace; how it ended and what it said.

    Raises:
        ShellSpent: the candidate's shell has had all of its processor seconds.
    """
    allowed = broker.plan.budget.shell_s
    left = None if allowed is None else int(allowed - shell_seconds(broker.trace))
    if left is not None and left <= 0:
        raise ShellSpent(f"your shell has had its {allowed} processor seconds")
    code, output, took = counted(broker.campaign, fork, command, timeout_s, left)
    spend_shell(broker.trace, took)
    return f"{code}\n{output}"
