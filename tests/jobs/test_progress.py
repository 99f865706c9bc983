"""The watchdog: a command that stands still shows its stacks, is ended as hung and goes on."""

import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from aevo import sandbox
from aevo.config.cluster import LocalCluster, SlurmCluster
from aevo.config.schema import Config, load
from aevo.errors import JobError
from aevo.files.documents import append_line, read_lines
from aevo.files.paths import Layout
from aevo.jobs import autopsy, progress
from aevo.jobs.folder import HUNG, JobFolder
from aevo.jobs.nodes import excluded
from aevo.jobs.progress import Progress
from aevo.jobs.script import executor
from aevo.jobs.state import observe
from aevo.jobs.submit import MAX_HANGS, wait
from aevo.plan.graph import evaluation_job, training_job
from aevo.plan.setup import Setup
from aevo.records.job import Confinement, HungNode, JobSpec, Step, Watchdog
from aevo.substrate.frozen import DEFAULT, open_substrate
from tests.conftest import REPO
from tests.jobs.test_jobs import cluster

__all__ = ["cluster"]
CONF = REPO / "conf"

# Two ranks that write steps until they stand still, each in a function that a stack shows. Started
# again it goes on, unless it is to hang for ever.
TRAINING = """
import os, sys, time
from pathlib import Path
out, forever = Path(sys.argv[1]), sys.argv[2] == "forever"
def waits_for_the_first_rank():
    while True: time.sleep(60)
def waits_for_the_second_rank():
    while True: time.sleep(60)
again = (out / "metrics.jsonl").exists() and not forever
rank = 1 if os.fork() == 0 else 0
if rank == 0:
    with (out / "metrics.jsonl").open("a") as lines:
        for step in range(10):
            lines.write("step\\n"); lines.flush(); time.sleep(0.2)
    if again:
        (out / "result.json").write_text("{}")
        os._exit(0)
if again:
    os._exit(0)
waits_for_the_second_rank() if rank == 0 else waits_for_the_first_rank()
"""


def training(tmp_path: Path, confined: bool = False, mode: str = "once") -> JobSpec:
    """A training job that hangs."""
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "training.py").write_text(TRAINING)
    return JobSpec(
        name="c01-train-1",
        kind="train",
        campaign="test",
        folder=str(tmp_path / "jobs" / "c01-train-1"),
        product=str(out / "result.json"),
        steps=[
            Step(
                argv=[sys.executable, str(tmp_path / "training.py"), str(out), mode],
                cwd=str(tmp_path),
                confine=Confinement(write=[str(out)]) if confined else None,
            )
        ],
        attempts=1,
        watchdog=Watchdog(
            files=[str(out / "metrics.jsonl")],
            steps=10,
            least_s=0.8,
            record=str(tmp_path / "hangs.jsonl"),
        ),
    )


@pytest.mark.long(8)
@pytest.mark.parametrize("confined", [False, True])
def test_a_hang_shows_the_stacks_of_all_ranks_and_goes_on(
    tmp_path: Path, cluster: LocalCluster, confined: bool
) -> None:
    if confined and sandbox.probe() == "none":
        pytest.skip("nothing confines a command here")
    spec = training(tmp_path, confined)
    assert wait(spec, cluster).phase == "finished"
    job = JobFolder(Path(spec.folder))
    end = job.ended(1)
    assert end is not None and end.exit_code == HUNG and end.message.startswith("HANG: ")
    assert "where the median takes" in end.message
    log = job.log(1).read_text()
    for function in ("waits_for_the_first_rank", "waits_for_the_second_rank"):
        assert log.count(f"in {function}") == 1
    assert autopsy.cause(end.message, [log]) == "hang"
    assert len(read_lines(HungNode, tmp_path / "hangs.jsonl")) == 1 and excluded(spec) == []


@pytest.mark.long(8)
def test_one_that_hangs_again_and_again_is_given_up_and_its_node_left_out(
    tmp_path: Path, cluster: LocalCluster
) -> None:
    spec = training(tmp_path, mode="forever")
    with pytest.raises(JobError, match=r"HANG: .*no step for"):
        wait(spec, cluster)
    state = observe(JobFolder(Path(spec.folder)))
    assert state.attempt == MAX_HANGS and state.message.startswith("HANG")
    nodes = {line.node for line in read_lines(HungNode, tmp_path / "hangs.jsonl")}
    assert excluded(spec) == sorted(nodes) and len(nodes) == 1


def test_a_node_of_two_hangs_is_excluded_from_what_is_submitted(tmp_path: Path) -> None:
    config = composed("cluster=h200", "+cluster.train.exclude=bad-1")
    assert isinstance(config.cluster, SlurmCluster)
    spec = training(tmp_path)
    for node in ("h200-3", "h200-7", "h200-3"):
        append_line(tmp_path / "hangs.jsonl", HungNode(node=node, job=spec.name, time=1.0))
    made, command = executor(spec, 1, config.cluster)
    assert "#SBATCH --exclude=bad-1,h200-3\n" in made.text(command)


def test_one_candidate_does_not_take_the_campaigns_nodes_away(tmp_path: Path) -> None:
    """Its trainings may hang on purpose, on one node after the other."""
    spec = training(tmp_path)
    other = spec.model_copy(update={"name": "c05-train-1"})
    hung = [("a", "c01-train-2"), ("a", "c01-train-3"), ("b", "c01-train-3"), ("b", "c02-train-1")]
    for node, name in hung:
        append_line(tmp_path / "hangs.jsonl", HungNode(node=node, job=name, time=1.0))
    assert excluded(other) == ["b"]


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


def watched(tmp_path: Path, clock: Clock, first_s: float | None) -> tuple[Path, Progress]:
    file = tmp_path / "metrics.jsonl"
    dog = Watchdog(files=[str(file)], steps=50, least_s=600, first_s=first_s)
    return file, Progress(dog)


def test_slow_steps_and_short_rests_are_no_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    file, seen = watched(tmp_path, clock, 7200)

    def after(seconds: float, grows: bool) -> str:
        clock.now += seconds
        if grows:
            with file.open("a") as lines:
                lines.write("x")
        return seen.stands()

    assert after(7000, False) == "" and after(199, True) == ""  # loads a large base
    assert [after(17, True) for _ in range(5)] == [""] * 5
    assert after(600, False) == "" and after(200, False) == ""  # 50 x 17 s is more than 600
    assert after(51, False) == "no step for 851 s, where the median takes 17 s"


def test_a_training_that_never_begins_is_a_hang_an_evaluation_may_be_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    _, trains = watched(tmp_path, clock, 7200)
    _, evaluates = watched(tmp_path, clock, None)
    clock.now = 7201
    assert trains.stands() == "no step for 7201 s"
    assert evaluates.stands() == ""


def test_answers_that_engines_write_are_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    (tmp_path / "engine").mkdir()
    seen = Progress(Watchdog(files=[str(tmp_path)], steps=2, least_s=30))
    for _ in range(4):
        clock.now += 20
        with (tmp_path / "engine" / "shard-0.jsonl").open("a") as answers:
            answers.write("{}")
        assert seen.stands() == ""
    clock.now += 41
    (tmp_path / "engine" / "shard-0.log").write_text("a log is no progress")
    assert seen.stands().startswith("no step for 41 s")


def test_settings_reach_trainings_and_evaluations(tmp_path: Path) -> None:
    config = composed("watchdog.least_min=5", "watchdog.first_min=30", f"runs={tmp_path}")
    setup = forecast(config)
    run = setup.layout.round(1).candidate("c01").run(1)
    trains, evaluates = (
        training_job(setup, run, 7).watchdog,
        evaluation_job(setup, run, {}).watchdog,
    )
    assert trains is not None and evaluates is not None
    assert trains.files == [str(run.metrics)] and trains.record == str(setup.layout.hangs)
    assert (trains.steps, trains.least_s, trains.first_s) == (50, 300, 1800)
    assert evaluates.files == [str(run.evaluation)] and evaluates.first_s is None
    off = forecast(composed("watchdog.steps=null", f"runs={tmp_path}"))
    assert training_job(off, run, 7).watchdog is None


def composed(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base=None):
        return load(compose("config", overrides=list(overrides)))


def forecast(config: Config) -> Setup:
    """What a campaign of this configuration would be."""
    return Setup(
        Layout(config.root), config.campaign, config, open_substrate(DEFAULT), "/base", None
    )
