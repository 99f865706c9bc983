"""A recipe keeps its comments and its layout when keys are set."""

from pathlib import Path

import pytest

from aevo.records.change import Change
from aevo.substrate.catalogue import load
from aevo.substrate.frozen import DEFAULT
from aevo.substrate.recipe import apply, load_recipe

TEXT = """# what a run costs
train:
  steps: 200   # of the optimiser
  schedule: {shape: cosine, warmup: 0.05}   # one of three
  loss:
    mask: all
select:
  weights: {}  # by domain
"""


def applied(folder: Path, text: str, **keys: object) -> str:
    (folder / "recipe.yaml").write_text(text)
    apply(
        Change(set={name.replace("__", "."): value for name, value in keys.items()}),
        folder,
        "recipe.yaml",
    )
    return (folder / "recipe.yaml").read_text()


def test_a_value_is_set_in_its_place_and_all_else_stays(tmp_path: Path) -> None:
    found = applied(tmp_path, TEXT, train__steps=300, train__schedule__shape="wsd")
    assert found == TEXT.replace("200", "300").replace("cosine", "wsd")


def test_new_keys_come_at_the_end_of_their_section(tmp_path: Path) -> None:
    found = applied(
        tmp_path, TEXT, train__schedule__final=0.1, train__focal__gamma=2.0, select__x=None
    )
    assert "# one of three" in found and "# by domain" in found
    data = load_recipe(tmp_path / "recipe.yaml")
    assert data["train"]["focal"] == {"gamma": 2.0} and data["train"]["schedule"]["final"] == 0.1
    assert data["select"] == {"weights": {}, "x": None} and data["train"]["loss"] == {"mask": "all"}


@pytest.mark.parametrize("text", ["train:\n", "{}\n", "train: [1]\n", "train: {a: 1,\n  c: 2}\n"])
def test_a_recipe_laid_out_in_another_way_still_gets_the_value(tmp_path: Path, text: str) -> None:
    applied(tmp_path, text, train__b=True)
    assert load_recipe(tmp_path / "recipe.yaml")["train"]["b"] is True


def test_every_move_of_the_catalogue_leaves_the_comments(tmp_path: Path) -> None:
    text = (DEFAULT / "recipe.yaml").read_text()
    for axis in load(DEFAULT / "axes.yaml", real=True).axes:
        for move in axis.moves:
            (tmp_path / "recipe.yaml").write_text(text)
            apply(Change(set=move.set), tmp_path, "recipe.yaml")
            found = (tmp_path / "recipe.yaml").read_text()
            assert found.count("#") == text.count("#"), f"{axis.id}/{move.id}"
