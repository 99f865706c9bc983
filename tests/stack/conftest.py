"""The substrate's packages are top-level names, as in its own commands; one small trained run."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

SUBSTRATE = Path(__file__).parents[2] / "substrate" / "default"
sys.path.insert(0, str(SUBSTRATE))
# One thread: the same sums everywhere. Both are read when torch and transformers are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"


@pytest.fixture(scope="module", autouse=True)
def environment_of_others() -> Iterator[None]:
    """What the stack sets in its process, as a trainer may (threads, gloo's interface), is not
    passed on to tests of other rooms, which start processes from the same one."""
    before = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    yield
    for name in [name for name in os.environ if not name.startswith("PYTEST")]:
        if name not in before:
            del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def tiny_base() -> Path:
    """The checkpoint that ships."""
    return SUBSTRATE / "base" / "tiny"


@pytest.fixture(scope="session")
def small_recipe() -> dict[str, Any]:
    """The default recipe, cut to a few seconds. Not to be changed in place."""
    recipe: dict[str, Any] = yaml.safe_load((SUBSTRATE / "recipe.yaml").read_text())
    recipe["data"]["examples"] = 960
    recipe["train"] |= {"steps": 60, "batch_size": 16, "learning_rate": 3.0e-3, "checkpoints": 2}
    return recipe


@pytest.fixture(scope="session")
def small_recipe_path(
    small_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(small_recipe))
    return path


@pytest.fixture(scope="session")
def train_path(small_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.jsonl of the small recipe."""
    from data.build import build
    from puzzles import load_preset

    rows, _ = build(small_recipe, load_preset("tiny"), 7)
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def dev_items() -> list[dict[str, Any]]:
    """240 items of dev."""
    from eval.items import items
    from puzzles import load_preset

    return items(load_preset("tiny"), "dev", 240, 1)


@pytest.fixture(scope="session")
def items_path(dev_items: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("items") / "items.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in dev_items))
    return path


@pytest.fixture(scope="session")
def trained(
    small_recipe: dict[str, Any],
    train_path: Path,
    tiny_base: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Output folder of an undisturbed run of the small recipe, seed 7. Not to be written to."""
    from train.peft_backend import execute
    from train.run import Run

    out = tmp_path_factory.mktemp("trained")
    execute(Run(small_recipe, train_path, tiny_base, out, seed=7, threads=1))
    return out


@pytest.fixture(scope="session")
def nemotron_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model=tiny_nemotron_h as base.prepare makes it."""
    from base.nemotron import make

    folder = tmp_path_factory.mktemp("nemotron") / "moe"
    make(folder)
    return folder


@pytest.fixture(scope="session")
def dense_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without experts: tensor parallelism above 1 on CPU needs that."""
    from base.nemotron import DENSE, make

    folder = tmp_path_factory.mktemp("nemotron") / "dense"
    make(folder, DENSE)
    return folder


@pytest.fixture(scope="session")
def short_recipe(small_recipe: dict[str, Any]) -> dict[str, Any]:
    """Twelve steps of 8 rows, three checkpoints. Not to be changed in place."""
    recipe: dict[str, Any] = yaml.safe_load(yaml.safe_dump(small_recipe))
    recipe["train"] |= {"steps": 12, "batch_size": 8, "checkpoints": 3}
    return recipe
