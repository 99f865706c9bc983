"""What an agent's sandbox shows: the fork, the substrate's open files, the agent's own program."""

import os
import shutil
import sys
from pathlib import Path

from aevo import sandbox
from aevo.config.agent import CliAgent
from aevo.jobs.environment import environment
from aevo.sandbox.grants import SYSTEM, outermost, within
from aevo.start.agent import program
from aevo.work.cli import client, inside

LOG_GB = 0.25  # of what it may say in one session


def installed(path: str) -> list[str]:
    """The folders that a program was installed in: a package of npm with its neighbours and `node`,
    a virtual environment with the Python that it is of; else the file alone."""
    found = []
    for name in dict.fromkeys((path, os.path.realpath(path))):
        folders = []
        for folder in Path(name).parents:
            if folder.name == "node_modules":
                folders.append(str(folder))
            if (folder / "pyvenv.cfg").is_file():
                python = os.path.realpath(folder / "bin" / "python")
                folders += [str(folder), str(Path(python).parents[1])]
        found += folders or [name]
    node = shutil.which("node")
    if node is not None and any(Path(name).name == "node_modules" for name in found):
        found += [node, os.path.realpath(node)]
    return outermost(
        name
        for name in found
        if name != "/" and Path(name).exists() and not any(within(name, top) for top in SYSTEM)
    )


def confinement(
    settings: CliAgent, fork: Path, home: Path, scratch: str, read: list[str], hide: list[str]
) -> sandbox.Confinement:
    """What it may read, write and use up.

    Args:
        read: of the campaign: the substrate first, the rows to train on.
        hide: what is sealed of it.
    """
    own = [inside.__file__, client.__file__]
    return sandbox.Confinement(
        read=[*read, *own, *installed(program(settings)), *map(os.path.abspath, settings.read)],
        hide=hide,
        write=[str(fork), str(home), scratch],
        memory_gb=settings.memory_gb,
        processes=settings.processes,
        file_gb=settings.disk_gb,
        disk_gb=settings.disk_gb,
        log_gb=LOG_GB,
    )


def variables(home: Path, substrate: str, scratch: str, path: str) -> dict[str, str]:
    """The environment that the agent starts with, before its own settings."""
    given = environment(os.environ, {"PYTHONPATH": substrate, "HOME": str(home)}, 1, scratch)
    given["PATH"] = os.pathsep.join(
        [str(Path(path).parent), str(Path(sys.executable).parent), given.get("PATH", os.defpath)]
    )
    return given
