"""Evaluation sets: exact shares, stable ids, one line for a mistake."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import puzzles
import pytest
from eval.items import distribution, items, shares

from tests.stack.conftest import SUBSTRATE

TINY = puzzles.load_preset("tiny")


def command(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    given = {"--preset": "tiny", "--split": "dev", "--n": "60", "--out": str(out)}
    given |= dict(zip(more[::2], more[1::2], strict=True))
    return subprocess.run(
        [sys.executable, "-m", "eval.items", *(word for pair in given.items() for word in pair)],
        cwd=SUBSTRATE,
        capture_output=True,
        text=True,
        env=os.environ | {"ITEMS_SEED": "1"},
    )


def test_command_writes_rows_that_are_the_same_every_time(tmp_path: Path) -> None:
    first, again = tmp_path / "new folder" / "a.jsonl", tmp_path / "b.jsonl"
    assert command(first).returncode == command(again).returncode == 0
    assert first.read_bytes() == again.read_bytes()
    rows = [json.loads(line) for line in first.read_text().splitlines()]
    assert len(rows) == len({row["id"] for row in rows}) == 60
    assert all(set(row) == {"id", "domain", "prompt", "answer", "meta"} for row in rows)
    assert list(first.parent.iterdir()) == [first], "a temporary file was left"


def test_unknown_preset_and_split_are_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = command(tmp_path / "a.jsonl", "--preset", "huge")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "challenge" in done.stderr
    assert command(tmp_path / "a.jsonl", "--split", "train").returncode == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tiny", "challenge"])
@pytest.mark.parametrize("n", [1, 7, 100, 601])
def test_shares_follow_the_mixture_and_sum_to_n(name: str, n: int) -> None:
    preset = puzzles.load_preset(name)
    for split in ("dev", "hidden"):
        mixture = distribution(preset, split).mixture
        counts = shares(mixture, n)
        assert sum(counts.values()) == n
        total = sum(mixture.values())
        assert all(abs(counts[d] - n * mixture[d] / total) < 1 for d in puzzles.DOMAINS)


def test_every_item_is_of_its_split_and_can_be_answered() -> None:
    for split, bucket in (("dev", "dev"), ("hidden", "hidden"), ("hidden_unshifted", "hidden")):
        rows = items(TINY, split, 120, 4)
        assert {puzzles.split_of(row["prompt"]) for row in rows} == {bucket}
        assert all(
            puzzles.solve(row["prompt"], row["domain"], TINY) == row["answer"] for row in rows
        )
        assert set(Counter(row["domain"] for row in rows)) == set(puzzles.DOMAINS)


def test_these_modules_need_no_torch() -> None:
    code = (
        "import sys, puzzles, eval.metric, eval.items, data.build; "
        "print(sorted({'torch', 'transformers', 'aevo'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=SUBSTRATE, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
