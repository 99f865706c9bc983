"""SFT, RFT, DPO and SFT with GRPO as candidates of one round, at comparable cost."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aevo.files.documents import read
from aevo.files.paths import Layout
from aevo.jobs.folder import JobFolder
from aevo.plan.cancel import cancel_all
from aevo.records.evidence import Evidence
from aevo.records.leaderboard import Leaderboard
from aevo.records.manifest import Manifest
from aevo.records.scores import TrainingResult
from tests.conftest import REPO, SANDBOX, until
from tests.support.killing import kill_job, kill_jobs

pytestmark = [
    pytest.mark.long(45),
    pytest.mark.skipif("AEVO_SLOW" not in os.environ, reason="minutes: AEVO_SLOW=1 runs it"),
]

SMALL = (
    "worker.trainings=1",
    "worker.anchor_seeds=1",
    "model.dev_items=60",
    "model.hidden_items=60",
    "+model.recipe.data.examples=320",
    "+model.recipe.train.steps=60",
    "+model.recipe.train.batch_size=16",
    "+model.recipe.train.checkpoints=2",
)


@dataclass
class Run:
    """The public command on the tiny model, again and again in one folder."""

    folder: Path
    words: tuple[str, ...]
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def layout(self) -> Layout:
        return Layout(self.folder / "runs" / "tiny-seed1")

    def start(self) -> "subprocess.Popen[bytes]":
        log = (self.folder / "log").open("ab")
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "aevo.campaign",
                f"runs={self.folder / 'runs'}",
                f"cluster.slot_folder={self.folder / 'slots'}",
                *SMALL,
                *SANDBOX,
                *self.words,
            ],
            stdout=log,
            stderr=log,
            cwd=self.folder,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(REPO)},
        )
        self.started.append(process)
        return process

    def finish(self) -> None:
        assert self.start().wait(3600) == 0, (self.folder / "log").read_text()

    def lines(self, stage: str) -> dict[Path, list[str]]:
        """Metrics of the runs that have taken a step of a stage."""
        found = {}
        for path in self.layout.root.glob("round-01/c*/train/1/out/metrics.jsonl"):
            text = path.read_text()
            if f'"stage": "{stage}"' in text:
                found[path] = text[: text.rfind("\n") + 1].splitlines()
        return found


def run_of(folder: Path, *words: str) -> Iterator[Run]:
    run = Run(folder, words)
    yield run
    for process in run.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    kill_jobs(run.layout)
    if run.layout.campaign.exists():
        cancel_all(run.layout)


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Run]:
    """SFT, DPO and SFT with GRPO: two categories, as two axes must have."""
    yield from run_of(tmp_path, "rounds=1", "worker.n=3", "policy.axes=[preference,reward_shape]")


@pytest.fixture
def eight(tmp_path: Path) -> Iterator[Run]:
    """All methods: a full round has room for three axes of a category."""
    axes = "policy.axes=[rejection_sampling,preference,policy_gradient]"
    yield from run_of(tmp_path, "rounds=2", "worker.n=8", axes)


def manifests(layout: Layout, number: int = 1) -> list[Manifest]:
    found = sorted(layout.round(number).root.glob("c*/manifest.json"))
    return [read(Manifest, path) for path in found]


def methods(manifest: Manifest) -> set[str]:
    """The stages beyond SFT that a candidate's recipe has."""
    return {key.split(".")[2] for key in manifest.change.set if key.startswith("train.stages.")}


def check_alike(layout: Layout, number: int = 1) -> None:
    """What records, evidence and leaderboard say of every candidate, whatever its method."""
    found = manifests(layout, number)
    cost = found[0].runs[0].tokens
    assert found[0].runs[0].budget is None  # SFT divides nothing
    for item in found:
        assert item.status == "ok" and item.selected is not None, item.failure
        (run,) = item.runs
        if methods(item):  # longer rows cost more: an axis of the data is another matter
            assert run.tokens + run.read == pytest.approx(cost, rel=0.1)
        assert (run.budget is not None) == bool(methods(item)) == bool(run.read)
    names = {item.candidate for item in found}
    evidence = read(Evidence, layout.round(number).evidence)
    assert {item.candidate for item in evidence.candidates if item.dev is not None} == names
    assert all(item.comparison for item in evidence.candidates if item.role == "explorer")
    board = read(Leaderboard, layout.round(number).leaderboard)
    assert {item.candidate for item in board.submissions if item.error is None} <= names


def test_methods_in_one_round_survive_a_kill_in_their_stages(three: Run) -> None:
    """kill -9 of each training while DPO and GRPO are learned: no step runs twice."""
    driver = three.start()
    jobs = three.layout.round(1).jobs
    at_kill: dict[Path, list[str]] = {}
    waiting = {"c01": "dpo", "c02": "grpo"}

    def strike() -> bool:
        for name, stage in list(waiting.items()):
            for path, lines in three.lines(stage).items():
                if name in path.parts:
                    kill_job(JobFolder(jobs / f"{name}-train-1"))
                    at_kill[path] = lines
                    del waiting[name]
        return not waiting or driver.poll() is not None

    until(strike, 200)
    assert driver.wait(300) == 0, (three.folder / "log").read_text()
    assert len(at_kill) == 2
    for path, before in at_kill.items():
        result = read(TrainingResult, path.with_name("result.json"))
        after = path.read_text().splitlines()
        assert result.resumed_from, "it was killed where nothing was lost: the test shows nothing"
        kept = result.resumed_from[-1]
        assert kept > 0 and after[: min(kept, len(before))] == before[:kept]
        steps = [json.loads(line)["step"] for line in after]
        assert steps == list(range(1, result.steps + 1))
    found = manifests(three.layout)
    assert [methods(item) for item in found] == [set(), {"dpo"}, {"grpo"}]
    check_alike(three.layout)
    page = (three.layout.report / "report.md").read_text()
    for item in found:
        run = item.runs[0]
        read_too = f", {run.read:,} read or written, of {run.budget:,}" if run.read else ""
        assert f"- {item.candidate}: {run.tokens:,} trained{read_too}\n" in page


def test_two_full_rounds_with_all_methods_end_in_a_release(eight: Run) -> None:
    eight.finish()
    found = [methods(item) for item in manifests(eight.layout)]
    assert [method for method in found if method] == [{"rft"}, {"dpo"}, {"grpo"}]
    check_alike(eight.layout)
    for command in (("evidence", "verify"), ("release",)):
        out = ("--out", str(eight.folder / "s.zip")) if command[0] == "release" else ()
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                f"aevo.{command[0]}",
                *command[1:],
                str(eight.layout.root),
                *out,
            ],
            cwd=REPO,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
    assert (eight.folder / "s.zip").stat().st_size > 0
