"""The substrate is identified by its content, forked without its frozen part, never changed."""

import shutil
from pathlib import Path

import pytest

from aevo.errors import SubstrateError
from aevo.records.change import Change
from aevo.substrate.frozen import DEFAULT, open_substrate
from tests.conftest import REGRESSION, Cli


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(REGRESSION, tmp_path / "substrate")
    return tmp_path / "substrate"


@pytest.mark.parametrize("root", [DEFAULT, REGRESSION])
def test_shipped_substrates_are_as_frozen(root: Path) -> None:
    open_substrate(root).verify()


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: (root / "eval" / "score.py").write_text("print('forged')"),
        lambda root: (root / "eval" / "new.py").write_text(""),
        lambda root: (root / "base" / "config.json").unlink(),
        lambda root: (root / "recipe.yaml").chmod(0o755),
        lambda root: (root / "data" / "link").symlink_to("/etc"),
    ],
    ids=["edited", "added", "removed", "mode", "link"],
)
def test_edit_of_a_frozen_substrate_is_named(copy: Path, damage: object) -> None:
    open_substrate(copy).verify()
    damage(copy)  # type: ignore[operator]
    with pytest.raises(SubstrateError, match=r"1 file\(s\) of the frozen substrate .* were edited"):
        open_substrate(copy).verify()


def test_byte_code_is_no_part_of_the_digest(copy: Path) -> None:
    before = open_substrate(copy).digest()
    (copy / "eval" / "__pycache__").mkdir()
    (copy / "eval" / "__pycache__" / "score.cpython-311.pyc").write_bytes(b"x")
    assert open_substrate(copy).digest() == before


def test_refrozen_substrate_does_not_pass_for_the_pinned_one(copy: Path) -> None:
    substrate = open_substrate(copy)
    pinned = substrate.verify()
    (copy / "axes.yaml").write_text("axes: []")
    substrate.freeze()
    substrate.verify()
    with pytest.raises(SubstrateError, match="not the substrate this campaign started with"):
        substrate.verify(pinned)


def test_fork_holds_only_mutable_files_with_the_standing_recipe(copy: Path, tmp_path: Path) -> None:
    substrate = open_substrate(copy)
    substrate.fork(tmp_path / "fork", [Change(set={"train.steps": 7})])
    assert sorted(path.name for path in (tmp_path / "fork").iterdir()) == [
        "data",
        "recipe.yaml",
        "train",
    ]
    assert substrate.diff(tmp_path / "fork").set == {"train.steps": 7}
    substrate.verify()


def test_recipe_digest_sees_values_and_code_not_formatting(copy: Path, tmp_path: Path) -> None:
    substrate = open_substrate(copy)
    substrate.fork(tmp_path / "fork", [])
    before = substrate.recipe_sha256(tmp_path / "fork")
    recipe = tmp_path / "fork" / "recipe.yaml"
    recipe.write_text("# a comment\n" + recipe.read_text())
    assert substrate.recipe_sha256(tmp_path / "fork") == before
    (tmp_path / "fork" / "data" / "build.py").write_text("pass\n")
    assert substrate.recipe_sha256(tmp_path / "fork") != before


def test_command_names_an_unknown_placeholder(copy: Path) -> None:
    text = (copy / "substrate.yaml").read_text().replace('"{split}"', '"{spilt}"')
    (copy / "substrate.yaml").write_text(text)
    with pytest.raises(SubstrateError, match=r"\{spilt\}"):
        open_substrate(copy).command("items", split="dev", n=1, out="x")


def test_command_line_verifies_forks_and_diffs(cli: Cli, copy: Path) -> None:
    assert cli.plain("substrate", "verify", str(copy)).returncode == 0
    fork = cli.folder / "fork"
    assert cli.plain("substrate", "fork", str(fork), str(copy)).returncode == 0
    recipe = fork / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("steps: 60", "steps: 61"))
    shown = cli.plain("substrate", "diff", str(fork), str(copy))
    assert "set  train.steps = 61" in shown.stdout
    (copy / "axes.yaml").write_text("axes: []")
    refused = cli.plain("substrate", "verify", str(copy))
    assert refused.returncode == SubstrateError.code
    assert refused.stderr.count("\n") == 1 and "axes.yaml" in refused.stderr
    assert cli.plain("substrate", "freeze", str(copy)).returncode == 0
    assert cli.plain("substrate", "verify", str(copy)).returncode == 0
