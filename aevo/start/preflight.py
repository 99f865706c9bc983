"""What would fail later, found out before anything is submitted."""

import shutil
import sys

from aevo import sandbox
from aevo.config.agent import CliAgent, EndpointSettings
from aevo.config.schema import Config
from aevo.errors import ConfigError
from aevo.files.paths import Layout
from aevo.leaderboard import configured
from aevo.start import agent


def can_run(config: Config) -> None:
    """Finds out what would fail later, before anything is submitted.

    Raises:
        SandboxError: nothing here confines worker-written code, and the user did not say
            `sandbox=none`.
        EndpointError: the agent's endpoint cannot be used: wrong key, address or model.
        ConfigError: a setting of the agent's is missing, or its program is not installed.
        BoardError: the leaderboard cannot be used: credentials, rules, competition, network.
    """
    if sandbox.require(config.sandbox) == "none":
        print(
            "WARNING: sandbox=none: worker-written code runs unconfined, as you, with your "
            "files and your network",
            file=sys.stderr,
            flush=True,
        )
    if isinstance(config.agent, CliAgent):
        agent.check(config.agent)
    for settings in (config.agent, config.teacher):
        if isinstance(settings, EndpointSettings):
            from aevo.llm import preflight  # `openai` is half of a start's imports

            preflight.check(settings)
    configured.check(config)


def free_space(layout: Layout, needed_mb: int = 200) -> None:
    """Refuses to begin on a disk that is about to be full.

    Raises:
        ConfigError: less than `needed_mb` MB are free where the campaign lies.
    """
    layout.root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(layout.root).free // 2**20
    if free < needed_mb:
        raise ConfigError(
            f"only {free} MB are free at {layout.root}, {needed_mb} are needed",
            "free some, or give another folder with runs=PATH",
        )
