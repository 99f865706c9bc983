"""The data pipeline: every knob changes what it names, every mistake is named, no row leaks."""

import copy
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import puzzles
import pytest
import yaml
from data.build import build
from data.recipe import RecipeError, load_recipe
from data.traces import completion
from eval.metric import extract

from aevo.axes import load as load_catalogue
from aevo.change import apply, set_key
from tests.substrate.conftest import SUBSTRATE

TINY = puzzles.load_preset("tiny")
RECIPE = load_recipe(SUBSTRATE / "recipe.yaml")
SMALL: dict[str, Any] = {"data.examples": 240, "train.batch_size": 8}


def recipe(**changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy(RECIPE)
    for key, value in {**SMALL, **{k.replace("__", "."): v for k, v in changes.items()}}.items():
        set_key(changed, key, value)
    return changed


def rows(seed: int = 3, **changes: Any) -> list[dict[str, Any]]:
    return build(recipe(**changes), TINY, seed)[0]


def test_same_recipe_and_seed_give_the_same_rows_another_seed_others() -> None:
    assert rows() == rows() != rows(seed=4)


@pytest.mark.parametrize("name", ["tiny", "challenge"])
def test_every_completion_ends_in_the_box_with_the_answer(name: str) -> None:
    preset = puzzles.load_preset(name)
    for domain in puzzles.DOMAINS:
        for puzzle in puzzles.draw(preset, domain, 25, 1, "train"):
            for style in ("none", "short", "full"):
                written = completion(puzzle, style)
                assert written.endswith(f"\\boxed{{{puzzle.answer}}}")
                assert extract(written) == puzzle.answer


def test_no_row_is_of_dev_or_hidden_even_after_augmentation() -> None:
    built = rows(data__augment={"reorder_examples": 1, "extra_example": 1, "perturb_numbers": 1})
    assert built and all(puzzles.split_of(row["prompt"]) == "train" for row in built)


def test_augmented_rows_are_right() -> None:
    built = rows(data__augment={"reorder_examples": 1, "extra_example": 1, "perturb_numbers": 1},
                 data__filter__resolve=False)
    for row in built:
        assert puzzles.solve(row["prompt"], row["domain"], TINY) in (row["answer"], None)


def test_mixture_up_and_down_samples() -> None:
    counts = Counter(row["domain"] for row in rows(data__mixture__equation=5,
                                                   data__mixture__bits=0))
    assert counts["bits"] == 0
    assert counts["equation"] > 4 * counts["unit"]


def test_trace_styles_lengthen_completions_and_may_differ_by_domain() -> None:
    def length(built: list[dict[str, Any]], domain: str) -> float:
        found = [len(row["completion"]) for row in built if row["domain"] == domain]
        return sum(found) / len(found)

    none, short, full = (rows(data__trace__style=style) for style in ("none", "short", "full"))
    assert length(none, "unit") < length(short, "unit") < length(full, "unit")
    mixed = rows(data__trace__domains={"unit": "full"})
    assert length(mixed, "unit") == length(full, "unit")
    assert length(mixed, "cipher") == length(none, "cipher")
    half = Counter(row["source"] for row in rows(data__trace={
        "style": "full", "fraction": 0.5, "domains": {}}))
    assert set(half) == {"generator:full", "generator:none"}


def test_filters_drop_what_they_name_and_say_so() -> None:
    easy = rows(data__filter__difficulty="easy")
    assert easy and all(row["difficulty"] < 0.5 for row in easy)
    built, dropped = build(recipe(data__filter__max_chars=50), TINY, 3)
    assert dropped["max_chars"] > 0 and all(len(row["prompt"]) <= 50 for row in built)


def test_order_and_weights() -> None:
    ordered = [row["difficulty"] for row in rows(data__order="easy_first")]
    assert ordered == sorted(ordered)
    weights = {row["domain"]: row["weight"] for row in rows(
        train__loss__domain_weights={"unit": 2.0})}
    assert weights["unit"] == 2.0 and weights["bits"] == 1.0


def test_all_mistakes_of_a_recipe_are_named_at_once(tmp_path: Path) -> None:
    changed = recipe(train__learning_rate="fast", data__trace__style="long",
                     data__mixture={"bits": 1}, train__lora__rank=64, nonsense=1)
    del changed["train"]["steps"]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(changed))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    for part in ("train.learning_rate='fast'", "one of none, short, full", "data.mixture",
                 "train.lora.rank=64 must be a whole number from 1 to 32", "nonsense is unknown",
                 "train.steps is missing"):
        assert part in str(caught.value)


def test_command_line_reports_a_mistake_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("data: [")
    done = subprocess.run(
        [sys.executable, "-m", "data.build", "--recipe", str(path), "--preset", "tiny",
         "--seed", "1", "--out", str(tmp_path / "out")],
        cwd=SUBSTRATE, capture_output=True, text=True,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


CATALOGUE = load_catalogue(SUBSTRATE / "axes.yaml")
MOVES = [(axis, move) for axis in CATALOGUE.axes for move in axis.moves]


@pytest.mark.parametrize(("axis", "move"), MOVES, ids=[m.id for _, m in MOVES])
def test_every_move_of_the_catalogue_applies_and_changes_the_run(
    tmp_path: Path, axis: Any, move: Any
) -> None:
    fork = tmp_path / "fork"
    fork.mkdir()
    shutil.copy(SUBSTRATE / "recipe.yaml", fork)
    shutil.copytree(SUBSTRATE / "data", fork / "data")
    before = (fork / "recipe.yaml").read_text(), (fork / "data" / "mixture.py").read_text()
    apply(move.change, fork, "recipe.yaml")
    changed = load_recipe(fork / "recipe.yaml")
    assert all(any(key == knob or key.startswith(knob + ".") for knob in axis.knobs)
               for key in move.set), f"{move.id} sets a key outside of its axis"
    code = (fork / "data" / "mixture.py").read_text()
    differs = changed != load_recipe(SUBSTRATE / "recipe.yaml") or code != before[1]
    assert differs, f"{move.id} changes nothing"
    if any(key.startswith("data.") for key in move.set):
        set_key(changed, "data.examples", min(changed["data"]["examples"], 240))
        assert build(changed, TINY, 1)[0]


def test_catalogue_is_wide_enough() -> None:
    assert len(CATALOGUE.axes) >= 14
    assert len(CATALOGUE.categories) >= 5
    assert any(axis.transfer for axis in CATALOGUE.axes)
