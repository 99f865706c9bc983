"""The embedded default for real: a language model, LoRA training, the shifted leaderboard."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from aevo.files.documents import read
from aevo.files.paths import Layout
from aevo.records.leaderboard import Leaderboard
from aevo.records.manifest import Manifest
from aevo.records.policy import Policy
from aevo.records.scores import Scores, TrainingResult
from aevo.substrate.frozen import DEFAULT, open_substrate
from tests.conftest import REPO

pytestmark = pytest.mark.long(70)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    """A round of two candidates with the default recipe, through the public command."""
    folder = tmp_path_factory.mktemp("tiny")
    before = open_substrate(DEFAULT).digest()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "aevo.campaign",
            "rounds=1",
            "worker.n=2",
            f"runs={folder}",
            "policy.axes=[trace_style]",
            f"cluster.slot_folder={folder / 'slots'}",
        ],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert open_substrate(DEFAULT).digest() == before
    yield Layout(folder / "tiny-seed1")


def test_default_recipe_lifts_dev_over_the_base_checkpoint(layout: Layout) -> None:
    base = read(Scores, layout.baseline / "scores.json").scores["base"].dev
    anchor = read(Manifest, layout.round(1).candidate("c00").manifest)
    assert base is not None and anchor.selected is not None
    assert anchor.selected.dev >= base + 0.10
    assert len(anchor.runs) == 2
    assert all(len(run.checkpoints) == 4 for run in anchor.runs)


def test_adapters_are_peft_safetensors_that_differ_between_checkpoints(layout: Layout) -> None:
    run = layout.round(1).candidate("c00").run(1)
    result = read(TrainingResult, run.result)
    folders = [run.output / item.path for item in result.checkpoints]
    for folder in folders:
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["peft_type"] == "LORA" and config["r"] == 8
        assert not list(folder.glob("*.bin")) and not list(folder.glob("*.pt"))
    first, last = (
        load_file(folder / "adapter_model.safetensors") for folder in (folders[0], folders[-1])
    )
    assert first.keys() == last.keys()
    assert any((first[name] != last[name]).any() for name in first)
    steps = [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()]
    assert steps == list(range(1, result.steps + 1))


def test_leaderboard_is_of_other_items_than_dev_and_is_rounded(layout: Layout) -> None:
    dev, hidden = (
        {json.loads(line)["id"] for line in path.read_text().splitlines()}
        for path in (layout.dev_items, layout.hidden_items)
    )
    assert dev and hidden and not dev & hidden
    board = read(Leaderboard, layout.round(1).leaderboard)
    scores = [item.score for item in board.submissions]
    assert len(scores) == 3, "the anchor's two runs, and one candidate"
    assert all(score is not None and score == round(score, 2) for score in scores)
    assert board.quota_left == board.quota - 3


def test_answers_lie_in_the_vault_alone(layout: Layout) -> None:
    assert layout.vault.stat().st_mode & 0o077 == 0
    answers = [
        json.loads(line)["prompt"] for line in layout.dev_items.read_text().splitlines()[:50]
    ]
    for path in layout.round(1).candidate("c01").fork.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert not any(prompt in text for prompt in answers)
    train = (layout.round(1).candidate("c01").run(1).data / "train.jsonl").read_text()
    prompts = {json.loads(line)["prompt"] for line in train.splitlines()}
    assert not prompts & set(answers)


def test_round_ends_in_report_and_next_policy(layout: Layout) -> None:
    assert read(Policy, layout.policy(2)).round == 2
    page = (layout.report / "index.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and "Substrate" in page
    assert (layout.report / "lb_by_round.png").stat().st_size > 5000


def test_what_is_shipped_is_an_adapter_that_was_scored(layout: Layout, tmp_path: Path) -> None:
    archive = tmp_path / "to" / "submission.zip"
    done = subprocess.run(
        [sys.executable, "-m", "aevo.release", str(layout.root), "--out", str(archive)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.partition("adapter: ")[2].splitlines()[0])
    with zipfile.ZipFile(archive) as made:
        assert sorted(made.namelist()) == ["adapter_config.json", "adapter_model.safetensors"]
        for name in made.namelist():
            assert made.read(name) == (folder / name).read_bytes()


def test_one_more_round_only_is_run_when_asked_again(layout: Layout) -> None:
    trace: Path = layout.round(1).candidate("c01").trace
    before = trace.read_bytes()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "aevo.campaign",
            "rounds=1",
            "worker.n=2",
            f"runs={layout.root.parent}",
            "policy.axes=[trace_style]",
        ],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert trace.read_bytes() == before
