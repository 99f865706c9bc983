"""What a coding agent of others needs on a machine before it can work there."""

import importlib.util
import os
import shutil

from aevo.config.agent import CliAgent
from aevo.errors import ConfigError


def program(settings: CliAgent) -> str:
    """The file that the agent's command runs.

    Raises:
        ConfigError: no command is set, or it is not installed here.
    """
    if not settings.command:
        raise ConfigError("agent.command is not set", "agent=cli agent.command='my-agent {prompt}'")
    found = shutil.which(settings.command[0])
    if found is None:
        raise ConfigError(
            f"agent.command: {settings.command[0]} is not installed on {os.uname().nodename}",
            f"conf/agent/{settings.name}.yaml says how; every node that runs workers needs it",
        )
    return os.path.abspath(found)  # noqa: PTH100 (links are kept)


def check(settings: CliAgent) -> None:
    """Finds out whether the agent could work on this machine.

    Raises:
        ConfigError: its program, or the package that serves its tools, is not installed.
    """
    program(settings)
    if importlib.util.find_spec("mcp") is None:
        raise ConfigError(
            f"agent={settings.name} needs the package mcp, which is not installed",
            "pip install 'aevo[agents]'",
        )
