"""The command line of trainer=megatron: every mistake is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("megatron.core", reason="megatron-core is not installed")

from train import megatron as entry

from tests.stack.mcore_support import command


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--tensor", "2"), "1 processes cannot be divided"),
        (("--base", "/no/where"), "/no/where"),
        (("--data", "/no/where"), "/no/where"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...],
    reason: str,
    small_recipe_path: Path,
    train_path: Path,
    nemotron_base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = command(small_recipe_path, train_path, nemotron_base, tmp_path, *arguments)
    assert entry.main(words[2:]) == 2
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1
    assert said.startswith("train.megatron: ")


def test_without_megatron_core_it_says_what_to_install(
    small_recipe_path: Path,
    train_path: Path,
    nemotron_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(entry.importlib.util, "find_spec", lambda name: None)
    words = command(small_recipe_path, train_path, nemotron_base, tmp_path)
    assert entry.main(words[2:]) == 2
    assert "pip install megatron-core==0.16.1" in capsys.readouterr().err
