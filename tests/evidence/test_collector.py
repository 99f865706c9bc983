"""The collector: what it submits, and that nothing a worker leaves behind can break it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aevo.errors import ConfigError, RecordError
from aevo.evidence import collector
from aevo.evidence.collector import choose
from aevo.evidence.inputs import read_round
from aevo.files.documents import read, write_json, write_text
from aevo.files.paths import Layout
from aevo.policy import document as policies
from aevo.records.change import Change
from aevo.records.evidence import SECTIONS, Evidence
from aevo.records.leaderboard import Leaderboard
from aevo.records.manifest import Manifest
from aevo.records.policy import Provenance, Selection
from tests.support.builders import (
    Effect,
    FakeBoard,
    World,
    files,
    paper_world,
    start_campaign,
    write_round,
)


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code may catch it."""


def kill_at_fsync(monkeypatch: pytest.MonkeyPatch, count: int) -> Callable[[], bool]:
    """Dies in the count-th fsync, with the data of that write on disk; tells whether it did."""
    real, state = os.fsync, {"left": count}

    def fsync(handle: int) -> None:
        real(handle)
        state["left"] -= 1
        if state["left"] == 0:
            raise Killed

    monkeypatch.setattr(os, "fsync", fsync)
    return lambda: state["left"] <= 0


def killed_everywhere(
    monkeypatch: pytest.MonkeyPatch,
    origin: Layout,
    act: Callable[[Layout], object],
    check: Callable[[Layout], None],
    step: int = 1,
) -> int:
    """Lets `act` die in every fsync (every `step`-th) that it makes, each time on a fresh copy of
    the campaign, runs it again and checks what is there; how often it died."""
    kills = 0
    for count in range(1, 100, step):
        tried = Layout(origin.root.with_name(f"kill{count}"))
        shutil.copytree(origin.root, tried.root)
        with monkeypatch.context() as patch:
            died = kill_at_fsync(patch, count)
            try:
                act(tried)
            except Killed:
                kills += 1
        act(tried)
        check(tried)
        shutil.rmtree(tried.root)
        if not died():
            break
    return kills


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = start_campaign(tmp_path / "camp")
    write_round(found, 1, paper_world())
    return found


def collect(layout: Layout, number: int = 1, quota: int = 6) -> Evidence:
    return collector.collect(layout, number, FakeBoard(layout, paper_world(), quota))


def submitted(layout: Layout, number: int = 1) -> list[str]:
    return [s.candidate for s in read(Leaderboard, layout.round(number).leaderboard).submissions]


def test_anchor_first_then_the_best_within_the_quota(layout: Layout) -> None:
    evidence = collect(layout, quota=3)
    assert submitted(layout) == ["c00", "c01", "c04"]
    by_name = {item.candidate: item for item in evidence.candidates}
    assert by_name["c01"].lb == 0.82
    assert by_name["c01"].lb_gain == 0.02
    assert by_name["c02"].lb is None and by_name["c02"].lb_gain is None


def test_transfer_puts_transfer_axes_and_the_reweighted_score_first(layout: Layout) -> None:
    policy = policies.read(layout, 1)
    axes = [axis.model_copy(update={"transfer": axis.axis == "clip"}) for axis in policy.axes]
    selection = Selection(
        criterion="reweighted",
        weights={"equation": 0.0},
        provenance=Provenance(round=1, figure="f"),
    )
    policies.write(
        layout,
        policy.model_copy(
            update={"objective": "maximise_transfer", "axes": axes, "selection": selection}
        ),
    )
    world = World(
        {
            "clip/m1": Effect(dev=-0.05),
            "rank/m1": Effect(domains={"equation": 0.30}),
            "mask/m1": Effect(domains={"bits": 0.05}),
        }
    )
    write_round(layout, 1, world)
    collector.collect(layout, 1, FakeBoard(layout, world, 3))
    assert submitted(layout) == ["c00", "c02", "c04"]  # anchor, transfer axis, bits over equation


def test_five_sections_always_these_five(layout: Layout) -> None:
    collect(layout)
    text = layout.round(1).evidence_text.read_text()
    titles = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert titles == list(SECTIONS.values())


def corrupt_json(path: Path) -> None:
    write_text(path, '{"candidate": "c04", "ro')


def wrong_type(path: Path) -> None:
    write_text(path, '{"candidate": 4}')


def not_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


def gone(path: Path) -> None:
    path.unlink()


def anothers(path: Path) -> None:
    shutil.copy(path.parents[1] / "c05" / "manifest.json", path)


@pytest.mark.parametrize(
    ("spoil", "status", "words"),
    [
        (corrupt_json, "failed", "is not valid json"),
        (wrong_type, "failed", "is not a valid Manifest"),
        (not_text, "failed", "cannot be read"),
        (gone, "missing", "is missing"),
        (anothers, "failed", "is that of round 1 c05"),
    ],
)
def test_a_bad_manifest_is_a_fact_about_its_candidate(
    layout: Layout, spoil: Callable[[Path], None], status: str, words: str
) -> None:
    spoil(layout.round(1).candidate("c04").manifest)
    evidence = collect(layout)
    summary = next(item for item in evidence.candidates if item.candidate == "c04")
    assert summary.status == status
    assert summary.failure is not None and words in summary.failure
    assert str(layout.root) not in evidence.model_dump_json()
    assert len(evidence.candidates) == 8
    assert "c04" not in submitted(layout)
    scored = next(item for item in evidence.audit if "scored" in item.check)
    assert not scored.passed and "c04" in scored.text


def test_a_failed_candidate_says_why(layout: Layout) -> None:
    path = layout.round(1).candidate("c03").manifest
    manifest = read(Manifest, path).model_copy(
        update={"status": "failed", "failure": "run 1: diverged", "selected": None}
    )
    write_json(path, manifest)
    summary = collect(layout).candidates[3]
    assert (summary.status, summary.failure) == ("failed", "run 1: diverged")
    assert "left out" in summary.text


def test_without_an_anchor_there_are_no_gains(layout: Layout) -> None:
    layout.round(1).candidate("c00").manifest.unlink()
    evidence = collect(layout)
    assert evidence.anchor() is None
    assert all(item.comparison is None for item in evidence.candidates)
    assert all(item.lb_gain is None for item in evidence.candidates)
    assert evidence.calibration.verdict == "evidence"
    failed = {item.check for item in evidence.audit if not item.passed}
    assert "One anchor ran the standing recipe untouched" in failed


def test_without_any_manifest_the_round_still_closes(layout: Layout) -> None:
    for number in range(8):
        layout.round(1).candidate(f"c{number:02d}").manifest.unlink()
    evidence = collect(layout)
    assert submitted(layout) == []
    assert [item.status for item in evidence.candidates] == ["missing"] * 8
    assert evidence.calibration.best_dev is None


def test_missing_predictions_cost_the_comparison_only(layout: Layout) -> None:
    layout.round(1).candidate("c01").run(1).predictions("step-000050").unlink()
    summary = collect(layout).candidates[1]
    assert summary.status == "ok" and summary.comparison is None
    assert summary.lb_gain == 0.02
    assert "no predictions" in summary.failure_modes[0]


def test_a_lost_adapter_is_not_submitted(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(layout.round(1).candidate("c01").run(1).adapter("step-000050"))
    evidence = collect(layout)
    assert "c01" not in submitted(layout)
    assert evidence.candidates[1].lb is None
    assert "c01 is not submitted" in capsys.readouterr().err


def test_a_corrupt_plan_stops_with_its_name(layout: Layout) -> None:
    write_text(layout.round(1).plan, "round: [")
    with pytest.raises(RecordError, match=r"plan\.yaml is not valid yaml"):
        collect(layout)


def test_finished_evidence_is_never_touched(layout: Layout) -> None:
    first = collect(layout)
    before = files(layout.root)
    layout.round(1).candidate("c01").manifest.unlink()
    assert collect(layout) == first
    collector.main([str(layout.root), "1"])
    after = files(layout.root)
    assert {k: v for k, v in before.items() if "c01/manifest" not in k} == after


def test_arguments_are_checked() -> None:
    with pytest.raises(ConfigError, match="CAMPAIGN_FOLDER ROUND"):
        collector.main(["only one"])


def test_killed_at_every_write_it_gives_the_same_files(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Layout(tmp_path / "whole")
    shutil.copytree(layout.root, whole.root)
    collect(whole)
    expected = files(whole.root)

    def check(tried: Layout) -> None:
        assert files(tried.root) == expected

    kills = killed_everywhere(monkeypatch, layout, collect, check)
    assert kills == 8  # four documents, file and folder each


def test_an_explorer_that_changed_nothing_goes_last_and_tests_nothing(layout: Layout) -> None:
    path = layout.round(1).candidate("c01").manifest  # the best by dev
    manifest = read(Manifest, path)
    before = {item.candidate: item.comparison for item in collect(layout, quota=9).candidates}
    write_json(path, manifest.model_copy(update={"change": Change(), "move": None}))
    for record in (layout.round(1).evidence, layout.round(1).leaderboard):
        record.unlink()
    evidence = collect(layout, quota=9)
    assert submitted(layout)[0] == "c00" and submitted(layout)[-1] == "c01"
    after = {item.candidate: item.comparison for item in evidence.candidates}
    clip, same = before["c02"], after["c02"]
    assert clip is not None and same is not None
    assert same.p_adjusted == pytest.approx(clip.p_adjusted * 6 / 7, rel=1e-4)
    assert "with nothing changed" in evidence.candidates[1].text


@pytest.mark.parametrize(("quota", "seeds"), [(2, 1), (3, 1), (4, 2), (6, 2)])
def test_the_anchors_seeds_are_submitted_up_to_half_of_the_quota(
    layout: Layout, quota: int, seeds: int
) -> None:
    chosen = choose(read_round(layout, 1, predictions=False), quota)
    runs = [item.selected.run for item in chosen if item.role == "anchor" and item.selected]
    assert len(chosen) == quota and runs == list(range(1, seeds + 1))


def test_an_anchors_score_is_the_mean_of_its_seeds(layout: Layout) -> None:
    collect(layout, quota=6)
    board = read(Leaderboard, layout.round(1).leaderboard)
    first = board.submissions[0]
    lucky = [
        first.model_copy(update={"run": run, "score": score})
        for run, score in ((1, 0.70), (2, 0.80))
    ]
    assert board.model_copy(update={"submissions": lucky}).score_of("c00") == pytest.approx(0.75)
