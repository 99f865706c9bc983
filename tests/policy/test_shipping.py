"""What a campaign would ship, on synthetic campaigns written through the real records."""

import subprocess
import sys
from pathlib import Path

import pytest

from aevo.config.policy import PolicySettings
from aevo.errors import RecordError
from aevo.files.documents import read
from aevo.files.paths import Layout
from aevo.policy import document as policies
from aevo.policy.shipping import Option, read_options
from aevo.records.evidence import Evidence
from aevo.release import entry
from tests.support.builders import SINGLE, Effect, World, paper_world, play, start_campaign

pytestmark = pytest.mark.usefixtures("claims_only")
STRONG = Effect(dev=0.06, lb=0.06)
WEAK = Effect(dev=0.012, lb=0.01)  # below what a promotion asks for


def played(
    root: Path, world: World, rounds: int, settings: PolicySettings | None = None
) -> tuple[Layout, list[Option]]:
    layout = start_campaign(root, settings=settings)
    for number in range(1, rounds + 1):
        play(layout, number, world)
    return layout, read_options(layout)


def test_nothing_found_ships_the_latest_anchor(tmp_path: Path) -> None:
    layout, found = played(tmp_path / "none", World({}), 2)
    assert policies.read(layout, 3).standing == []
    assert (found[0].round, found[0].candidate, found[0].expected) == (2, "c00", 0.0)
    assert found[0].recipe == "the default recipe"


def test_what_is_likely_but_not_proven_is_shipped_and_not_promoted(tmp_path: Path) -> None:
    layout, found = played(tmp_path / "weak", World({"learning_rate/m1": WEAK}), 1)
    assert policies.read(layout, 2).standing == []
    assert found[0].change.set == {"train.learning_rate": 1}
    assert 0 < found[0].expected < WEAK.dev, "the best of several flatters, so it is shrunk"


def test_a_promotion_raises_all_that_stands_on_it(tmp_path: Path) -> None:
    world = World({"learning_rate/m1": STRONG, "warmup/m1": WEAK, "weight_decay/m1": WEAK})
    layout, found = played(tmp_path / "strong", world, 2)
    assert [item.axis for item in policies.read(layout, 2).standing] == ["learning_rate"]
    anchors = {item.round: item.expected for item in found if item.candidate == "c00"}
    assert anchors[1] == 0.0 and 0.04 < anchors[2] < 0.08
    assert found[0].round == 2 and found[0].expected >= anchors[2]
    assert found[0].standing == ("train.learning_rate=1",)
    losers = [item for item in found if item.round == 1 and item.candidate != "c01"]
    assert all(item.expected < anchors[2] for item in losers)


@pytest.mark.long(4)
def test_once_dev_misleads_the_leaderboard_alone_speaks(tmp_path: Path) -> None:
    layout, found = played(tmp_path / "paper", paper_world(), 4, SINGLE)
    assert policies.read(layout, 5).divergence_known
    assert {item.basis for item in found} <= {
        "leaderboard",
        "the standing recipe",
        "not on the leaderboard",
    }
    best_dev = max(
        (summary.dev or 0.0, one.number, summary.candidate)
        for one in layout.rounds()
        for summary in read(Evidence, one.evidence).candidates
    )
    assert (found[0].round, found[0].candidate) != best_dev[1:]


def test_a_round_under_way_changes_nothing(tmp_path: Path) -> None:
    layout, found = played(tmp_path / "under-way", World({"rank/m1": STRONG}), 2)
    layout.policy(3).unlink()
    assert {item.round for item in read_options(layout)} == {1}
    assert found[0].round == 2


def test_the_adapter_is_the_one_that_was_scored(tmp_path: Path) -> None:
    layout, found = played(tmp_path / "adapter", World({"rank/m1": STRONG}), 1)
    taken = entry(layout, found[0])
    assert (taken.candidate, taken.checkpoint) == (found[0].candidate, "step-000050")
    (taken.adapter / "adapter_model.safetensors").unlink()
    taken.adapter.rmdir()
    with pytest.raises(RecordError, match=rf"{found[0].candidate} of round 1 has no adapter"):
        entry(layout, found[0])


@pytest.mark.long(3)
def test_command_line(tmp_path: Path) -> None:
    layout, found = played(tmp_path / "runs" / "one", World({"rank/m1": STRONG}), 1)

    def call(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "aevo.release", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    done = call("--top", "2")
    assert done.returncode == 0, done.stderr
    assert f"adapter: {entry(layout, found[0]).adapter.relative_to(tmp_path)}" in done.stdout
    assert done.stdout.count("c0") == 3  # two rows, and the adapter's folder
    for words, said in (
        (("elsewhere",), "not a campaign folder"),
        ((str(layout.root), "--out", "a.zip"), "no command `export`"),
    ):
        refused = call(*words)
        assert refused.returncode != 0 and said in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    start_campaign(tmp_path / "runs" / "two")
    assert "no round" in call("runs/two").stderr
