"""Rounds and campaigns as users run them, on a second substrate that trains in milliseconds."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aevo.errors import ConfigError, RecordError, SubstrateError
from aevo.files.documents import read, read_lines
from aevo.files.paths import Layout
from aevo.jobs.state import observe
from aevo.plan.cancel import job_folders
from aevo.policy import document as policies
from aevo.policy.document import DEAD_ENDS_TITLE
from aevo.records.evidence import Evidence
from aevo.records.leaderboard import Leaderboard
from aevo.records.manifest import Manifest
from aevo.records.plan import Plan
from aevo.records.policy import Policy
from aevo.records.scores import TrainingResult
from aevo.records.trace import Event
from aevo.substrate.catalogue import touches
from tests.conftest import REGRESSION, REPO, SLOW, Cli, until
from tests.support.killing import kill_jobs
from tests.support.outcome import outcome

pytestmark = pytest.mark.long(300)


def digest(*roots: Path) -> str:
    found = hashlib.sha256()
    for root in roots:
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if path.is_file():
                found.update(str(path).encode() + path.read_bytes())
    return found.hexdigest()


def test_round_leaves_every_record(cli: Cli) -> None:
    before = digest(REGRESSION, REPO / "constitution.txt")
    done = cli.run("round", "+round=1", n=8)
    assert done.returncode == 0, done.stderr
    layout = cli.layout()
    files = layout.round(1)
    plan = read(Plan, files.plan)
    assert [item.role for item in plan.candidates] == ["anchor"] + ["explorer"] * 7
    axes = [item.axis for item in plan.candidates if item.axis]
    assert len({axis.category for axis in axes}) >= 5
    knobs = [knob for axis in axes for knob in axis.knobs]
    assert len(knobs) == len(set(knobs))
    for item in plan.candidates:
        here = files.candidate(item.id)
        manifest = read(Manifest, here.manifest)
        tools = [
            call.name
            for event in read_lines(Event, here.trace)
            if event.turn
            for call in event.turn.tool_calls
        ]
        assert tools[-1] == "finish"
        assert {"read_file", "train", "wait"} <= set(tools)
        if manifest.status == "ok" and item.role == "explorer":
            assert not manifest.change.empty
            assert manifest.selected and len(manifest.runs[-1].checkpoints) == 3
            assert manifest.claims.claimed_dev == manifest.selected.dev
    anchor = read(Manifest, files.candidate("c00").manifest)
    assert anchor.change.empty and len(anchor.runs) == 2
    assert anchor.runs[0].seed != anchor.runs[1].seed
    board = read(Leaderboard, files.leaderboard)
    assert board.submissions[0].candidate == "c00"
    assert len(board.submissions) == 5 and board.quota_left == 0
    assert all(s.score == round(s.score, 2) for s in board.submissions if s.score is not None)
    evidence = read(Evidence, files.evidence)
    assert {summary.candidate for summary in evidence.candidates} == {
        item.id for item in plan.candidates
    }
    following = read(Policy, layout.policy(2))
    assert following.round == 2 and len(following.axes) == 7
    text = layout.policy(2).with_suffix(".md").read_text()
    assert f"## {DEAD_ENDS_TITLE}" in text
    assert digest(REGRESSION, REPO / "constitution.txt") == before


@pytest.fixture(scope="module")
def finished_campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """A finished round of two candidates, on a copy of substrate and constitution."""
    cli = Cli(tmp_path_factory.mktemp("finished"))
    shutil.copytree(REGRESSION, cli.folder / "substrate")
    shutil.copy(REPO / "constitution.txt", cli.folder)
    done = cli.run("round", constitution(cli), n=2)
    assert done.returncode == 0, done.stderr
    yield cli


def constitution(cli: Cli) -> str:
    return f"constitution={cli.folder / 'constitution.txt'}"


@contextlib.contextmanager
def damaged(path: Path, text: str | None) -> Iterator[None]:
    """The file with another content, or without it, for a while."""
    original, mode = path.read_bytes(), path.stat().st_mode
    path.chmod(mode | 0o200)  # some are read-only
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    try:
        yield
    finally:
        path.write_bytes(original)
        path.chmod(mode)


def test_finished_round_is_not_run_again(finished_campaign: Cli) -> None:
    before = digest(finished_campaign.layout().round(1).root)
    again = finished_campaign.run("round", "+round=1", constitution(finished_campaign), n=2)
    assert again.returncode == 0 and "is finished" in again.stdout
    assert digest(finished_campaign.layout().round(1).root) == before


def test_later_round_first_runs_the_missing_one(cli: Cli) -> None:
    done = cli.run("round", "+round=2", "seed=7", n=2)
    assert done.returncode == 0, done.stderr
    layout = cli.layout("regression-seed7")
    assert [item.number for item in layout.rounds()] == [1, 2]
    grown = [len(read(Policy, layout.policy(n)).dont_waste_budget_on) for n in range(1, 4)]
    assert grown == sorted(grown)


def test_round_far_ahead_is_refused(cli: Cli) -> None:
    done = cli.run("round", "+round=9")
    assert done.returncode == ConfigError.code
    assert "needs rounds 1 to 8 first" in done.stderr and done.stderr.count("\n") == 1


def test_multirun_runs_one_campaign_per_seed(cli: Cli) -> None:
    done = cli.run("round", "-m", "seed=1,2", n=2)
    assert done.returncode == 0, done.stderr
    for seed in (1, 2):
        assert read(Policy, cli.layout(f"regression-seed{seed}").policy(2)).round == 2


def test_failed_member_fails_a_multirun(finished_campaign: Cli) -> None:
    done = finished_campaign.run(
        "round", "+round=1", "-m", "seed=1,x", constitution(finished_campaign), n=2
    )
    assert done.returncode == ConfigError.code
    assert "is finished" in done.stdout and "seed: Input should be a valid integer" in done.stderr


def test_pinned_setting_cannot_be_changed_later(finished_campaign: Cli) -> None:
    done = finished_campaign.run("round", constitution(finished_campaign), n=3)
    assert done.returncode == ConfigError.code
    assert "worker.n (was 2, given 3)" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "text", "code", "expected"),
    [
        (
            "runs/regression-seed1/round-01/c01/manifest.json",
            "{",
            RecordError.code,
            "manifest.json is not valid",
        ),
        ("runs/regression-seed1/campaign.yaml", "name: x", RecordError.code, "campaign.yaml"),
        ("runs/regression-seed1/policy/round-01.yaml", "[]", RecordError.code, "round-01.yaml"),
        (
            "runs/regression-seed1/substrate/eval/score.py",
            "print('forged')",
            SubstrateError.code,
            "eval/score.py",
        ),
        (
            "runs/regression-seed1/constitution.txt",
            "do as you like",
            SubstrateError.code,
            "constitution.txt",
        ),
    ],
    ids=["manifest", "campaign", "policy", "substrate", "constitution"],
)
def test_damage_is_refused_in_one_clear_line(
    finished_campaign: Cli, path: str, text: str, code: int, expected: str
) -> None:
    layout = finished_campaign.layout()
    with contextlib.ExitStack() as stack:
        stack.enter_context(damaged(layout.round(1).evidence, None))
        stack.enter_context(damaged(layout.policy(2), None))
        stack.enter_context(damaged(finished_campaign.folder / path, text))
        done = finished_campaign.run("round", "+round=1", constitution(finished_campaign), n=2)
    assert done.returncode == code, done.stderr
    assert expected in done.stderr and done.stderr.count("\n") == 1


def test_campaign_killed_again_and_again_ends_as_the_undisturbed_one(
    cli: Cli, undisturbed: Layout
) -> None:
    """kill -9 of the driver alone, or with every process of the campaign, at several moments."""
    layout = cli.layout("stormy")
    moments = [
        ("step-0020", True),
        ("scores.json", False),
        ("step-0020", True),
        ("evidence.json", True),
        ("trace.jsonl", True),
    ]
    for event, everything in moments:
        driver = cli.start("campaign", "rounds=2", SLOW, "campaign=stormy")
        await_new(layout, event, driver)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        if everything:
            kill_jobs(layout)
    done = cli.run("campaign", "rounds=2", SLOW, "campaign=stormy")
    assert done.returncode == 0, done.stderr
    assert outcome(layout, 2) == outcome(undisturbed, 2)
    resumed = 0
    for metrics in layout.root.glob("round-*/c*/train/*/out/metrics.jsonl"):
        steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
        saved = 0  # the last checkpoint before each step: nothing up to it may run again
        for step in steps:
            assert step > saved, f"step {step} ran again after checkpoint {saved}"
            saved = step if step % 20 == 0 else saved
        resumed += read(TrainingResult, metrics.with_name("result.json")).resumed_from != []
    assert resumed, "no run was killed between two checkpoints: the test shows nothing"


def await_new(layout: Layout, name: str, driver: "subprocess.Popen[str]") -> None:
    """Waits until a file of that name appears, or the driver ends."""
    earlier = named(layout, name)
    until(lambda: driver.poll() is not None or bool(named(layout, name) - earlier))


def named(layout: Layout, name: str) -> set[Path]:
    """Files and folders of that name; os.walk does not mind folders that vanish meanwhile."""
    return {
        Path(folder, name)
        for folder, folders, files in os.walk(layout.root)
        if name in files or name in folders
    }


def test_interrupt_ends_all_jobs_and_the_same_command_goes_on(cli: Cli) -> None:
    driver = cli.start("campaign", "rounds=1", SLOW, n=2)
    layout = cli.layout()
    until(lambda: any(layout.root.glob("round-01/c*/train/1/out/metrics.jsonl")))
    os.kill(driver.pid, signal.SIGINT)
    _, errors = driver.communicate(timeout=200)
    assert driver.returncode == 130
    assert "run the same command to go on" in errors
    assert [job.root.name for job in job_folders(layout) if observe(job).alive] == []
    done = cli.run("campaign", "rounds=1", SLOW, n=2)
    assert done.returncode == 0, done.stderr
    assert (layout.report / "index.html").exists()


def test_round_goes_on_without_its_driver(cli: Cli) -> None:
    done = cli.run("round", "follow=false", n=2)
    assert done.returncode == 0 and "tail -f" in done.stdout
    until(lambda: cli.layout().policy(2).exists())
    shown = cli.plain("status", str(cli.layout().root), "--json")
    phases = {row["name"]: row["phase"] for row in json.loads(shown.stdout)["rows"]}
    assert phases["c00"] == "done" and phases["collector"] == "done"


def test_cancel_ends_a_round_under_way(cli: Cli) -> None:
    slower = "+model.recipe.train.step_seconds=5"
    assert cli.run("round", "follow=false", slower, n=2).returncode == 0
    layout = cli.layout()
    until(lambda: any(layout.root.glob("round-01/c*/train/1/out/metrics.jsonl")))
    done = cli.plain("cancel", str(layout.root))
    assert done.returncode == 0 and "c00-worker" in done.stdout
    assert [job.root.name for job in job_folders(layout) if observe(job).alive] == []


def test_candidate_that_fails_for_good_is_left_out_and_said_so(cli: Cli) -> None:
    done = cli.run("round", "policy.axes=[learning_rate]", "worker.trainings=1", "seed=1", n=2)
    assert done.returncode == 0, done.stderr
    layout = cli.layout()
    manifest = read(Manifest, layout.round(1).candidate("c01").manifest)
    evidence = read(Evidence, layout.round(1).evidence)
    summary = next(item for item in evidence.candidates if item.candidate == "c01")
    if manifest.status == "failed":
        assert summary.status == "failed" and summary.failure
    else:
        assert summary.comparison is not None


def test_a_stack_is_tried_by_one_candidate_on_top_of_each_other(cli: Cli) -> None:
    """An alpha that nothing reaches leaves every gain of round 1 undecided."""
    done = cli.run(
        "campaign",
        "rounds=2",
        "policy.alpha=1e-200",
        "policy.likely_per_round=0",
        "policy.axes=[steps,pipeline,schedule]",
        n=4,
    )
    assert done.returncode == 0, done.stderr
    layout = cli.layout()
    plan = read(Plan, layout.round(2).plan)
    candidate = next(item for item in plan.candidates if item.axis and item.axis.combines)
    assert candidate.axis is not None and candidate.seeds == plan.candidates[0].seeds
    manifest = read(Manifest, layout.round(2).candidate(candidate.id).manifest)
    assert manifest.status == "ok"
    assert len(touches(manifest.change)) >= 2
    tried = next(item for item in policies.read(layout, 3).tried if item.combines)
    assert tried.candidate == candidate.id and tried.dev is not None
    assert tried.combines == candidate.axis.combines
