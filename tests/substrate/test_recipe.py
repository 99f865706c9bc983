"""Changes between forks: read off exactly, applied elsewhere, refused where they do not fit."""

import random
from pathlib import Path

import pytest
import yaml

from aevo.errors import SubstrateError
from aevo.records.change import Change, Edit
from aevo.substrate import recipe as change

RECIPE: dict[str, dict[str, object]] = {
    "data": {"mixture": {"a": 1, "b": 1}},
    "train": {"lr": 0.1, "clip": 1.0},
}


def fork(folder: Path, recipe: object = RECIPE, code: str = "x = 1\n") -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "data" / "build.py").write_text(code)
    return folder


def between(old: Path, new: Path) -> Change:
    return change.between(old, new, ["recipe.yaml", "data"], "recipe.yaml")


def test_recipe_difference_is_read_off_by_key(tmp_path: Path) -> None:
    old = fork(tmp_path / "old")
    changed = {"data": {"mixture": {"a": 1, "b": 3}}, "train": {"lr": 0.2, "clip": 1.0}}
    new = fork(tmp_path / "new", changed)
    found = between(old, new)
    assert found.set == {"data.mixture.b": 3, "train.lr": 0.2}
    assert found.summary() == "data.mixture.b=3; train.lr=0.2"


def test_a_mapping_that_lost_a_key_comes_whole(tmp_path: Path) -> None:
    """Setting the key to None would leave a weight that is no number."""
    old = fork(tmp_path / "old", RECIPE | {"select": {"weights": {"a": 1.0, "b": 0.1}}})
    new = fork(tmp_path / "new", RECIPE | {"select": {"weights": {"b": 0.1}}})
    found = between(old, new)
    assert found.set == {"select.weights": {"b": 0.1}}
    change.apply(found, old, "recipe.yaml")
    assert between(old, new).empty


def test_a_new_section_is_read_off_by_its_keys(tmp_path: Path) -> None:
    """Two changes that add to it stand together."""
    old = fork(tmp_path / "old")
    new = fork(tmp_path / "new", RECIPE | {"more": {"a": {"b": 1}, "c": 2, "d": {}}})
    found = between(old, new)
    assert found.set == {"more.a.b": 1, "more.c": 2, "more.d": {}}
    change.apply(found, old, "recipe.yaml")
    assert between(old, new).empty


def test_untouched_fork_has_an_empty_change(tmp_path: Path) -> None:
    assert between(fork(tmp_path / "old"), fork(tmp_path / "new")).empty


@pytest.mark.parametrize("seed", range(40))
def test_any_code_edit_is_reproduced_exactly(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    lines = [generator.choice(["pass\n", "a = 1\n", "b = 2\n", "\n", "c()\n"]) for _ in range(30)]
    edited = list(lines)
    for _ in range(generator.randint(1, 6)):
        position = generator.randrange(len(edited))
        edited[position : position + generator.randint(0, 2)] = [f"new{seed}\n"] * (seed % 3)
    old, new = fork(tmp_path / "a", code="".join(lines)), fork(tmp_path / "b", code="".join(edited))
    target = fork(tmp_path / "c", code="".join(lines))
    change.apply(between(old, new), target, "recipe.yaml")
    assert (target / "data" / "build.py").read_text() == "".join(edited)


def test_two_changes_of_different_places_stack(tmp_path: Path) -> None:
    code = "".join(f"line{n} = {n}\n" for n in range(20))
    old = fork(tmp_path / "old", code=code)
    first = fork(tmp_path / "first", code=code.replace("line3 = 3", "line3 = 33"))
    second = fork(tmp_path / "second", code=code.replace("line15 = 15", "line15 = 55"))
    target = fork(tmp_path / "target", code=code)
    change.apply(between(old, first), target, "recipe.yaml")
    change.apply(between(old, second), target, "recipe.yaml")
    text = (target / "data" / "build.py").read_text()
    assert "line3 = 33" in text and "line15 = 55" in text


def test_new_file_is_part_of_the_change(tmp_path: Path) -> None:
    old, new = fork(tmp_path / "old"), fork(tmp_path / "new")
    (new / "data" / "extra.py").write_text("y = 2\n")
    target = fork(tmp_path / "target")
    change.apply(between(old, new), target, "recipe.yaml")
    assert (target / "data" / "extra.py").read_text() == "y = 2\n"


def test_edit_without_its_place_is_refused(tmp_path: Path) -> None:
    target = fork(tmp_path / "target", code="y = 1\n")
    edit = Edit(file="data/build.py", find="x = 1\n", replace="x = 2\n")
    with pytest.raises(SubstrateError, match=r"data/build\.py does not fit"):
        change.apply(Change(edits=[edit]), target, "recipe.yaml")


def test_link_in_a_fork_is_refused(tmp_path: Path) -> None:
    old, new = fork(tmp_path / "old"), fork(tmp_path / "new")
    (new / "data" / "build.py").unlink()
    (new / "data" / "build.py").symlink_to("/etc/passwd")
    with pytest.raises(SubstrateError, match="symbolic link"):
        between(old, new)
