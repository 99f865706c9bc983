"""Campaigns on a response surface: aevo beside other methods, and without each of its parts.

    python -m aevo.simulate [campaigns=200] [surface=tiny] [rounds=4] [seed=1]
                            [methods=[aevo,greedy]] [ablations=true] [workers=2] [out=FILE.json]
                            [+surface.onset=2] [policy.alpha=0.05 worker.n=8 …]

`surface` is a preset of aevo/studies/simulation/presets.yaml; `+surface.KEY=VALUE` changes one of
its keys. All other keys are those of conf/ and mean what they mean in a campaign. The same
arguments give the same table, whatever the number of workers.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator
from rich.console import Console
from rich.table import Table

from aevo import cli
from aevo.files.documents import Part
from aevo.start.command import configured, dotlist, own_keys
from aevo.studies.simulation.ablation import ABLATIONS
from aevo.studies.simulation.campaign import Bench, bench_of
from aevo.studies.simulation.study import AEVO, METHODS, Task, cell, run, searcher, table, write
from aevo.studies.simulation.surface import preset
from aevo.substrate.catalogue import load as load_catalogue
from aevo.substrate.frozen import DEFAULT

OWN = "+surface."


class Settings(Part):
    """The command's own keys."""

    campaigns: int = Field(default=200, ge=2)
    surface: str = "tiny"
    rounds: int = Field(default=4, ge=1)
    seed: int = Field(default=1, ge=0)
    methods: list[str] = METHODS
    ablations: bool = False
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    out: str | None = None

    @field_validator("methods", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


def main(arguments: list[str]) -> None:
    """Plays the campaigns and prints the table.

    Raises:
        ConfigError: an unknown key, surface or method.
    """
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    settings, changes, rest = _parse(arguments)
    chosen = preset(settings.surface, **changes)
    methods = [*settings.methods, *(ABLATIONS if settings.ablations else [])]
    for name in methods:
        if name != AEVO and name not in ABLATIONS:
            searcher(name)
    tasks = [
        Task(
            name,
            settings.surface,
            tuple(changes.items()),
            settings.seed * 1_000_000 + index,
            settings.rounds,
        )
        for name in methods
        for index in range(settings.campaigns)
    ]
    begun = time.monotonic()
    outcomes = run(tasks, default_bench(rest), settings.workers)
    seconds = time.monotonic() - begun
    found = table(outcomes, chosen.onset)
    title = f"surface={settings.surface} campaigns={settings.campaigns} rounds={settings.rounds} "
    title += f"seed={settings.seed}"
    if settings.out:
        write(Path(settings.out), outcomes, found, title)
    _show(found, title)
    print(f"{len(tasks)} campaigns in {seconds:.0f} s, {len(tasks) / seconds * 60:.0f} a minute")


def _parse(arguments: list[str]) -> tuple[Settings, dict[str, Any], list[str]]:
    """The command's own keys, changes of the surface, and overrides of conf/."""
    changes = [word for word in arguments if word.startswith(OWN) and "=" in word]
    settings, rest = own_keys(
        Settings, [word for word in arguments if word not in changes], "simulate"
    )
    return settings, dotlist([word.removeprefix(OWN) for word in changes]), rest


def default_bench(overrides: list[str]) -> Bench:
    """The default substrate's catalogue under the configuration with these overrides.

    Raises:
        ConfigError: an unknown key or value.
    """
    return bench_of(configured(overrides), load_catalogue(DEFAULT / "axes.yaml"))


def _show(found: Any, title: str) -> None:
    shown = Table("method", title=title)
    for name in found.columns:
        shown.add_column(str(name), justify="right")
    for method, values in found.iterrows():
        shown.add_row(str(method), *map(cell, values))
    Console(width=None if sys.stdout.isatty() else 200).print(shown)


if __name__ == "__main__":
    cli.run(main)
