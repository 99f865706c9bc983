"""The catalogue of axes: every move fits the stack as it is, and changes what a run gets."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from data.recipe import load_recipe

from aevo.files.keys import set_key
from aevo.substrate import recipe as change
from aevo.substrate.catalogue import Axis, Catalogue, Move, load, overlap, touches
from tests.stack.conftest import SUBSTRATE

BY_TRAINER = [
    load(SUBSTRATE / "axes.yaml", trainer=name, preset="challenge") for name in ("peft", "megatron")
]
CATALOGUE = Catalogue(
    axes=list({axis.id: axis for found in BY_TRAINER for axis in found.axes}.values())
)
MOVES = [(axis, move) for axis in CATALOGUE.axes for move in axis.moves]
Standing = tuple[dict[str, Any], dict[str, list[Any]]]  # recipe, rows by preset
CATEGORIES = {
    "data_mixture",
    "data_construction",
    "schedule",
    "optimiser",
    "capacity",
    "loss",
    "checkpoint_selection",
    "method",
    "reward",
}


def fork(folder: Path) -> Path:
    """The mutable files that data.build reads, with a small recipe."""
    shutil.copytree(SUBSTRATE / "data", folder / "data", ignore=shutil.ignore_patterns("*.pyc"))
    recipe = change.load_recipe(SUBSTRATE / "recipe.yaml")
    set_key(recipe, "data.examples", 600)
    (folder / "recipe.yaml").write_text(change.dump_recipe(recipe))
    return folder


def rows(folder: Path, preset: str = "tiny") -> list[dict[str, Any]]:
    """What the fork's own code builds, as a candidate's job does it."""
    out = folder / f"out-{preset}"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "data.build",
            "--recipe",
            "recipe.yaml",
            "--preset",
            preset,
            "--seed",
            "3",
            "--out",
            str(out),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SUBSTRATE)},
        check=True,
        capture_output=True,
    )
    return [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Standing:
    """Recipe and rows without any move, by preset."""
    folder = fork(tmp_path_factory.mktemp("standing"))
    built = {preset: rows(folder, preset) for preset in ("tiny", "challenge")}
    return load_recipe(folder / "recipe.yaml"), built


@pytest.mark.long(10)
@pytest.mark.parametrize(("axis", "move"), MOVES, ids=[f"{a.id}-{m.id}" for a, m in MOVES])
def test_move_fits_and_changes_the_run(
    tmp_path: Path, axis: Axis, move: Move, standing: Standing
) -> None:
    folder = fork(tmp_path)
    change.apply(move.change, folder, "recipe.yaml")
    recipe, built = load_recipe(folder / "recipe.yaml"), None
    if move.patch or recipe["data"] != standing[0]["data"]:
        preset = axis.presets[0] if axis.presets else "tiny"
        built, before = rows(folder, preset), standing[1][preset]
        assert built and built != before, f"{move.id} changes no row"
        dropped = {row["domain"] for row in before} - {row["domain"] for row in built}
        assert not dropped, f"{move.id} leaves no row of {dropped}"
    else:
        assert recipe != standing[0], f"{move.id} changes nothing"
    assert all(any(overlap(key, knob) for knob in axis.knobs) for key in touches(move.change)), (
        f"{move.id} touches more than the knobs of its axis"
    )


def test_what_fits_one_benchmark_is_not_offered_in_another() -> None:
    ids = {axis.id for axis in load(SUBSTRATE / "axes.yaml", trainer="megatron").axes}
    assert ids == {axis.id for axis in BY_TRAINER[1].axes} - {"bits_search", "equation_search"}
    tiny = load(SUBSTRATE / "axes.yaml", trainer="megatron", preset="tiny")
    assert {axis.id for axis in tiny.axes} == ids


def test_hard_first_is_the_curriculum_backwards(tmp_path: Path) -> None:
    axis = CATALOGUE.axis("ordering")
    assert axis is not None
    levels = {}
    for name in ("easy_first", "hard_first"):
        folder = fork(tmp_path / name)
        move = axis.move(name)
        assert move is not None
        change.apply(move.change, folder, "recipe.yaml")
        levels[name] = [r["difficulty"] for r in rows(folder) if r["domain"] == "gravity"]
    assert levels["easy_first"] == sorted(levels["easy_first"])
    assert levels["hard_first"] == sorted(levels["hard_first"], reverse=True)


def test_catalogue_is_wide_enough_for_every_round() -> None:
    assert len(CATALOGUE.axes) >= 16
    assert set(CATALOGUE.categories) == CATEGORIES
    assert sum(axis.transfer for axis in CATALOGUE.axes) >= 3
    assert sum(any(move.patch for move in axis.moves) for axis in CATALOGUE.axes) >= 3
    for axis in CATALOGUE.axes:
        assert axis.brief.count(".") + axis.brief.count("?") >= 2, f"{axis.id}: say what to look at"
        assert all(move.why for move in axis.moves)


def test_methods_are_offered_only_where_the_trainer_can() -> None:
    can, cannot = ({axis.category for axis in found.axes} for found in BY_TRAINER)
    assert can - cannot == {"method", "reward"}
