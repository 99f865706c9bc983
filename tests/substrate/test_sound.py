"""A substrate that contradicts itself is refused when it is frozen, with every fault."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from aevo.errors import SubstrateError
from aevo.records.change import Change, Edit
from aevo.substrate.__main__ import main
from aevo.substrate.frozen import DEFAULT, open_substrate
from aevo.substrate.recipe import load_recipe
from aevo.substrate.sound import faults, unknown_keys
from tests.conftest import REGRESSION

Damage = Callable[[dict[str, Any], list[dict[str, Any]]], object]


def patched(file: str, find: str) -> dict[str, Any]:
    return {"id": "x", "patch": [{"file": file, "find": find, "replace": "y"}]}


FAULTS: dict[str, tuple[Damage, str]] = {
    "mutable path": (lambda file, _: file["mutable"].append("nowhere"), "nowhere does not exist"),
    "frozen path": (lambda file, _: file["frozen"].append("gone.py"), "gone.py does not exist"),
    "recipe": (lambda file, _: file.update(mutable=["data"]), "is not mutable"),
    "no evaluate": (lambda file, _: file["commands"].pop("evaluate"), "no command `evaluate`"),
    "no baseline": (lambda file, _: file["commands"].pop("baseline"), "no command `baseline`"),
    "no train": (lambda file, _: file["commands"].pop("train"), "no command `train`"),
    "no items": (lambda file, _: file["commands"].pop("items"), "no command `items`"),
    "empty braces": (lambda file, _: file["commands"]["data"]["argv"].append("{}"), "'{}'"),
    "a number": (lambda file, _: file["commands"]["data"]["argv"].append("{0}"), "'{0}'"),
    "an attribute": (lambda file, _: file["commands"]["data"]["argv"].append("{a.b}"), "a.b"),
    "an open brace": (lambda file, _: file["commands"]["data"]["argv"].append("{seed"), "{seed"),
    "unknown key": (
        lambda _, axes: axes[0]["moves"].append({"id": "x", "set": {"data.mixtur": 1}}),
        "sets data.mixtur, which the recipe has not",
    ),
    "a foreign knob": (
        lambda _, axes: axes[0]["moves"].append({"id": "x", "set": {"train.steps": 1}}),
        "touches train.steps",
    ),
    "a patch that does not fit": (
        lambda _, axes: axes[2]["moves"].append(patched("data/build.py", "no such text")),
        "occurs 0 times",
    ),
    "a patch that fits twice": (
        lambda _, axes: axes[2]["moves"].append(patched("data/build.py", "import")),
        "times in data/build.py",
    ),
    "a frozen patch": (
        lambda _, axes: axes[2]["moves"].append(patched("eval/score.py", "import")),
        "which is not mutable",
    ),
    "a patch that makes what exists": (
        lambda _, axes: axes[2]["moves"].append(patched("data/build.py", "")),
        "which exists",
    ),
    "nothing": (lambda _, axes: axes[0]["moves"].append({"id": "x"}), "changes nothing"),
    "a recipe that is none": (lambda file, _: file.update(recipe="data/build.py"), "is not YAML"),
}


@pytest.mark.parametrize("root", [DEFAULT, REGRESSION], ids=lambda root: root.name)
def test_the_shipped_ones_are_sound(root: Path) -> None:
    assert faults(open_substrate(root)) == []


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_named_and_nothing_is_frozen(what: str, tmp_path: Path) -> None:
    root = tmp_path / "stack"
    shutil.copytree(REGRESSION, root)
    before = (root / "substrate.lock").read_text()
    file = yaml.safe_load((root / "substrate.yaml").read_text())
    catalogue = yaml.safe_load((root / "axes.yaml").read_text())
    damage, says = FAULTS[what]
    damage(file, catalogue["axes"])
    (root / "substrate.yaml").write_text(yaml.safe_dump(file))
    (root / "axes.yaml").write_text(yaml.safe_dump(catalogue))
    with pytest.raises(SubstrateError) as error:
        main(["freeze", str(root)])
    assert says in error.value.what
    assert (root / "substrate.lock").read_text() == before


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("train.steps", True),
        ("train.stepz", False),
        ("train", True),
        ("train.steps.x", False),
        ("select.weights.xor", True),  # inside of an empty mapping
        ("extra.a.b", True),  # optional
        ("extra", True),
        ("extras", False),
    ],
)
def test_which_keys_are_known(key: str, known: bool) -> None:
    substrate = open_substrate(REGRESSION)
    file = substrate.file.model_copy(update={"optional": ["extra.a"]})
    substrate = type(substrate)(substrate.root, file)
    recipe = load_recipe(REGRESSION / "recipe.yaml")
    assert (unknown_keys(substrate, Change(set={key: 1}), recipe) == []) is known
    edit = Edit(file="data/build.py", find="a", replace="b")
    assert unknown_keys(substrate, Change(set={key: 1}, edits=[edit]), recipe) == []
