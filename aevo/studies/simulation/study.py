"""Many simulated campaigns, and what came out by method, with intervals."""

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import pandas as pd

from aevo.errors import ConfigError
from aevo.files.documents import write_text
from aevo.policy import trials
from aevo.studies.simulation.ablation import ABLATIONS
from aevo.studies.simulation.campaign import Bench, Parts, Round, recipe_of, simulate
from aevo.studies.simulation.oracle import Oracle, knowledge
from aevo.studies.simulation.searchers import SEARCHERS, Observation, Searcher, search
from aevo.studies.simulation.space import Recipe
from aevo.studies.simulation.surface import Surface, draw, preset
from aevo.studies.simulation.world import World

AEVO = "aevo"
TPE = "tpe"
METHODS = [AEVO, *SEARCHERS, Oracle.name, TPE]
EPSILON = 1e-9


@dataclass(frozen=True)
class Task:
    """One campaign of one method."""

    method: str
    surface: str
    changes: tuple[tuple[str, Any], ...]
    seed: int
    rounds: int


@dataclass(frozen=True)
class Outcome:
    """What came of it. Gains are true ones over the default recipe, as the world is at the end: of
    what the method stands by (`hidden`, `dev`), and on hidden of what it would ship, which for aevo
    is `aevo.release`'s choice and for the others the same.

    `false_rounds` are rounds after which the method stood by something truly no better than before;
    `false_claims` those after which it called such a thing established, as only aevo tells apart.
    `verdicts` and `modes` are aevo's, by round; `runs` what it spent.
    """

    method: str
    seed: int
    hidden: float
    dev: float
    changed_rounds: int
    false_rounds: int
    rounds: int
    runs: int
    refused: int
    shipped: float
    verdicts: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    false_claims: int = 0


def play(task: Task, bench: Bench) -> Outcome:
    """Runs one task. The same task gives the same outcome on every machine.

    Raises:
        ConfigError: unknown method or surface, or optuna is missing.
    """
    surface = draw(preset(task.surface, **dict(task.changes)), bench.space, task.seed)
    world = World(surface, task.seed)
    if task.method == AEVO or task.method in ABLATIONS:
        return _aevo(task, bench.for_seed(task.seed), world, ABLATIONS.get(task.method, Parts()))
    if task.method == Oracle.name:
        known = knowledge(surface.preset, bench.space)
        return _other(task, bench, world, Oracle(bench.space, task.seed, known, task.rounds))
    return _other(task, bench, world, searcher(task.method)(bench.space, task.seed))


def searcher(name: str) -> type[Searcher]:
    """The method of that name.

    Raises:
        ConfigError: there is none; the message lists those there are.
    """
    if name == TPE:
        from aevo.studies.simulation.tpe import Tpe

        return Tpe
    if name == Oracle.name:
        return Oracle
    if name not in SEARCHERS:
        known = ", ".join([*METHODS, *ABLATIONS])
        raise ConfigError(f"method {name!r} is unknown", f"one of {known}")
    return SEARCHERS[name]


def _aevo(task: Task, bench: Bench, world: World, parts: Parts) -> Outcome:
    found = simulate(bench, world, task.rounds, parts)
    stood = [recipe_of(item.next) for item in found.rounds]
    return _outcome(
        task,
        world.surface,
        stood,
        found.runs,
        refused=len(found.refused),
        false_claims=sum(_claimed_falsely(item, world.surface) for item in found.rounds),
        verdicts=tuple(item.evidence.calibration.verdict for item in found.rounds),
        modes=tuple(item.next.mode for item in found.rounds),
        shipped=found.shipped,
    )


def _claimed_falsely(made: Round, surface: Surface) -> bool:
    """True if what the round established is truly no gain on the recipe that it was tried on."""
    before = recipe_of(made.policy)
    claims = [
        item for item in made.next.standing if item.established and item not in made.policy.standing
    ]
    number = made.policy.round
    start = surface.truth(surface.active(before), number)[1]
    for item in claims:
        own = trials.moves_of(made.next.tried, item.provenance.round, item.provenance.candidate)
        after = (*before, *((part.axis, part.move) for part in own))
        if surface.truth(surface.active(after), number)[1] - start <= EPSILON:
            return True
    return False


def _other(task: Task, bench: Bench, world: World, method: Searcher) -> Outcome:
    per_round = bench.config.worker.n - 1 + bench.config.worker.anchor_seeds
    decimals = world.surface.preset.decimals

    def trial(recipe: Recipe, seed: int, number: int) -> Observation:
        run = world.run(recipe, seed, number)
        return Observation(run.recipe, run.dev)

    def board(item: Observation, seed: int, number: int) -> float:
        return world.run(item.recipe, seed, number).board(decimals)

    runs = per_round * task.rounds
    quota = bench.config.leaderboard.quota
    stood = search(method, trial, board, runs, per_round, quota)
    return _outcome(task, world.surface, stood, runs)


def _outcome(
    task: Task,
    surface: Surface,
    stood: Sequence[Recipe],
    runs: int,
    refused: int = 0,
    verdicts: tuple[str, ...] = (),
    modes: tuple[str, ...] = (),
    shipped: Recipe | None = None,
    false_claims: int | None = None,
) -> Outcome:
    changed = false = 0
    before: Recipe = ()
    for number, recipe in enumerate(stood, start=1):
        active = surface.active(recipe)
        if set(active) != set(before):
            changed += 1
            gain = surface.truth(active, number)[1] - surface.truth(before, number)[1]
            false += gain <= EPSILON
        before = active
    dev, hidden = surface.truth(before, task.rounds)
    base_dev, base_hidden = surface.truth((), task.rounds)
    adapter = before if shipped is None else surface.active(shipped)
    ships = surface.truth(adapter, task.rounds)[1] - base_hidden
    return Outcome(
        method=task.method,
        seed=task.seed,
        hidden=hidden - base_hidden,
        dev=dev - base_dev,
        changed_rounds=changed,
        false_rounds=false,
        rounds=task.rounds,
        runs=runs,
        refused=refused,
        verdicts=verdicts,
        modes=modes,
        shipped=ships,
        false_claims=false if false_claims is None else false_claims,
    )


# -- many ------------------------------------------------------------------------------------------

_BENCH: list[Bench] = []


def _start(bench: Bench) -> None:
    _BENCH[:] = [bench]


def _play(task: Task) -> Outcome:
    return play(task, _BENCH[0])


def run(tasks: Sequence[Task], bench: Bench, workers: int) -> list[Outcome]:
    """Plays all tasks, in their order whatever the number of processes."""
    if workers <= 1:
        return [play(task, bench) for task in tasks]
    with ProcessPoolExecutor(workers, initializer=_start, initargs=(bench,)) as pool:
        return list(pool.map(_play, tasks, chunksize=4))


def table(outcomes: Sequence[Outcome], onset: int | None) -> pd.DataFrame:
    """One row a method: means with half widths of 95 % intervals; rates with Wilson's bounds."""
    frame = pd.DataFrame([vars(item) for item in outcomes])
    rows = [_row(str(name), own, onset) for name, own in frame.groupby("method", sort=False)]
    return pd.DataFrame(rows).set_index("method")


def _row(name: str, own: pd.DataFrame, onset: int | None) -> dict[str, Any]:
    count = len(own)
    rounds = int(own["rounds"].sum())
    row: dict[str, Any] = {
        "method": name,
        "campaigns": count,
        "runs": int(own["runs"].iloc[0]),
        "hidden gain": float(own["hidden"].mean()),
        "±": 1.96 * float(own["hidden"].std(ddof=1)) / sqrt(count) if count > 1 else 0.0,
        "shipped": float(own["shipped"].mean()),
        "± shipped": 1.96 * float(own["shipped"].std(ddof=1)) / sqrt(count) if count > 1 else 0.0,
        "dev gain": float(own["dev"].mean()),
        "changes / round": float(own["changed_rounds"].sum()) / rounds,
        "false / round": float(own["false_rounds"].sum()) / rounds,
        "false ≤": wilson(int(own["false_rounds"].sum()), rounds)[1],
        "false claims / round": float(own["false_claims"].sum()) / rounds,
        "claims ≤": wilson(int(own["false_claims"].sum()), rounds)[1],
        "refused": int(own["refused"].sum()),
    }
    verdicts = [item for item in own["verdicts"] if item]
    if verdicts:
        early = [v[: onset - 1] if onset else v for v in verdicts]
        row["false alarm"] = sum("not_evidence" in v for v in early) / len(verdicts)
        if onset:
            late = [v[onset - 1 : onset + 1] for v in verdicts]
            row["detected in 1"] = sum("not_evidence" in v for v in late) / len(verdicts)
    return row


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate."""
    if not trials:
        return 0.0, 1.0
    rate = successes / trials
    scale = 1 + z**2 / trials
    middle = (rate + z**2 / (2 * trials)) / scale
    reach = z * sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2)) / scale
    return middle - reach, middle + reach


def markdown(found: pd.DataFrame, title: str) -> str:
    """The table as Markdown."""
    names = ["method", *found.columns]
    lines = [f"## {title}", "", "| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for method, values in found.iterrows():
        cells = [str(method), *map(cell, values)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(value: Any) -> str:
    """A value as the tables show it; whole numbers come out of pandas as floats."""
    if isinstance(value, float):
        if value != value:
            return ""
        return f"{value:.0f}" if value.is_integer() and abs(value) >= 1 else f"{value:.4f}"
    return str(value)


def write(path: Path, outcomes: Sequence[Outcome], found: pd.DataFrame, title: str) -> None:
    """`path` (.json) with every outcome, and the table beside it as .md."""
    write_text(path, json.dumps([vars(item) for item in outcomes], indent=1) + "\n")
    write_text(path.with_suffix(".md"), markdown(found, title))
