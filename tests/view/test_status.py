"""The status: which job matters, what it took, and problems named with their mend."""

import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from aevo.files.documents import write_json, write_text
from aevo.records.plan import Cancelled
from aevo.view.problems import Problem, Problems
from aevo.view.table import Row, Status, status, table
from tests.conftest import Cli, until
from tests.slurm.conftest import Slurm, slurm
from tests.support.job_records import FakeSlurm, Jobs, fake, jobs

__all__ = ["fake", "jobs", "slurm"]  # fixtures
CANCELLED = 143


def look(jobs: Jobs, probe: bool = False) -> Status:
    return status(jobs.layout, 1, Problems(probe))


def row(now: Status, name: str) -> Row:
    return next(item for item in now.rows if item.name == name)


def only(now: Status) -> Problem:
    assert len(now.problems) == 1, now.problems
    return now.problems[0]


def waiting(jobs: Jobs, fake: FakeSlurm, reason: str, state: str = "PENDING") -> None:
    """A candidate whose training waits."""
    worker = jobs.submitted("c00-worker", "10")
    jobs.running(worker, 90, log="turn 1\n")
    jobs.submitted("c00-train-1", "11", ago=60)
    fake.queue(("10", "RUNNING", "None", "N/A"), ("11", state, reason, "2030-01-02T03:04:05"))


@pytest.mark.parametrize(
    ("reason", "mend"),
    [
        ("DependencyNeverSatisfied", "scancel 11"),
        ("launch failed requeued held", "scontrol release 11"),
        ("launch_failed_requeued_held", "scontrol release 11"),
        ("JobHoldMaxRequeue", "scontrol release 11"),
        ("JobHeldUser", "scontrol release 11"),
        ("JobHeldAdmin", "scontrol release 11"),
        ("PartitionDown", "cluster.train or cluster.common: partition"),
        ("PartitionTimeLimit", "cluster.train or cluster.common: time_min"),
        ("PartitionNodeLimit", "cluster.train or cluster.common: nodes"),
        ("QOSMaxGRESPerUser", "cluster.train or cluster.common: qos"),
        ("QOSGrpCpuLimit", "cluster.train or cluster.common: qos"),
        ("AssocGrpGRES", "cluster.train or cluster.common: account"),
        ("AssocMaxJobsLimit", "cluster.train or cluster.common: account"),
        ("InvalidAccount", "cluster.train or cluster.common: account"),
        ("InvalidQOS", "cluster.train or cluster.common: qos"),
        ("ReqNodeNotAvail, UnavailableNodes:h200-1", "cluster.train or cluster.common: nodelist"),
        ("Licenses", "extra.licenses"),
        ("BadConstraints", "cluster.train or cluster.common: constraint"),
    ],
)
def test_reason_that_does_not_pass_is_named_with_its_mend(
    jobs: Jobs, fake: FakeSlurm, reason: str, mend: str
) -> None:
    waiting(jobs, fake, reason)
    problem = only(look(jobs))
    assert problem.job == "c00-train-1" and reason in problem.problem and mend in problem.mend


@pytest.mark.parametrize("reason", ["Priority", "Resources", "Dependency", "BeginTime", "None"])
def test_reason_that_passes_is_shown_and_no_problem(
    jobs: Jobs, fake: FakeSlurm, reason: str
) -> None:
    waiting(jobs, fake, reason)
    now = look(jobs)
    found = row(now, "c00")
    assert now.problems == []
    assert (found.phase, found.job, found.job_id) == ("train 1", "c00-train-1", "11")
    assert found.state == "PENDING" and found.expected_start == "2030-01-02T03:04:05"
    assert found.reason == ("" if reason == "None" else reason)
    assert found.wait_s == pytest.approx(60, abs=5) and found.run_s == 0
    assert fake.calls("squeue") <= 2 and fake.calls("sacct") == 0


def test_requeue_hold_without_a_reason_is_named(jobs: Jobs, fake: FakeSlurm) -> None:
    waiting(jobs, fake, "None", state="REQUEUE_HOLD")
    assert "scontrol release 11" in only(look(jobs)).mend


def test_drained_node_that_a_waiting_job_needs_is_named(jobs: Jobs, fake: FakeSlurm) -> None:
    waiting(jobs, fake, "Resources")
    write_text(fake.folder / "partitions.out", "11|h200\n")
    fake.say(
        "sinfo",
        "cpu-0|cpu|down*|Not responding\nh200-0|h200|idle|none\n"
        "h200-1|h200|drained|bad | fan\nh200-1|other|drained|bad fan\n",
    )
    problem = only(look(jobs))
    assert problem.job == "c00-train-1" and "h200-1" in problem.problem
    assert "bad | fan" in problem.problem
    assert "scontrol update nodename=h200-1 state=resume" in problem.mend


def test_nodes_are_not_asked_for_when_no_job_waits_for_one(jobs: Jobs, fake: FakeSlurm) -> None:
    waiting(jobs, fake, "Dependency")
    look(jobs)
    assert fake.calls("sinfo") == 0


def test_scheduler_away_is_one_problem_and_records_still_show(jobs: Jobs, fake: FakeSlurm) -> None:
    for number in range(4):
        jobs.running(jobs.submitted(f"c0{number}-worker", f"{number}1"), 50, log="turn 3\n")
    done = jobs.submitted("plan", "5")
    jobs.finish(done)
    fake.say("squeue", "", "slurm_load_jobs error: Unable to contact slurm controller", 1)
    now = look(jobs, probe=True)
    problem = only(now)
    assert problem.job == "" and "Unable to contact" in problem.problem
    assert "scontrol ping" in problem.mend
    assert row(now, "plan").phase == "done" and row(now, "c03").phase == "unknown"
    assert row(now, "c03").last == "turn 3"
    assert fake.calls("squeue") == 1


def gone(jobs: Jobs, fake: FakeSlurm) -> None:
    """A worker that was killed with everything around it, and that Slurm has forgotten."""
    worker = jobs.submitted("c00-worker", "10")
    jobs.running(worker, 90, log="turn 1\n")
    jobs.silence(worker, 80)
    fake.queue()


def test_job_without_record_asks_sacct_once_in_a_view_that_refreshes(
    jobs: Jobs, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone(jobs, fake)
    fake.say("sacct", "10|NODE_FAIL|h200-3|0:0\n")
    long_ago = {(str(jobs.files.jobs / "c00-worker"), 1): 0.0}
    monkeypatch.setattr("aevo.jobs.state._gone_since", long_ago)
    problems = Problems()
    for _ in range(3):
        now = status(jobs.layout, 1, problems)
    found = now.problems
    assert (row(now, "c00").phase, row(now, "c00").run_s) == ("no record", 10)
    assert [item.job for item in found] == ["c00-worker"]
    assert "NODE_FAIL" in found[0].problem and "same command again" in found[0].mend
    assert fake.calls("sacct") == 1


def test_training_without_record_is_its_workers_business(jobs: Jobs, fake: FakeSlurm) -> None:
    jobs.running(jobs.submitted("c00-worker", "10"), 90, log="turn 1\n")
    train = jobs.submitted("c00-train-1", "11")
    jobs.running(train, 80, log="step 1\n")
    jobs.silence(train, 70)
    fake.queue(("10", "RUNNING", "None", "N/A"), ("11", "NODE_FAIL", "NodeDown", "N/A"))
    now = look(jobs)
    problem = only(now)
    assert "NODE_FAIL" in problem.problem and "c00-worker sees to it" in problem.mend
    assert (row(now, "c00").job, row(now, "c00").phase) == ("c00-worker", "running")


def test_sacct_that_fails_is_named_and_nothing_depends_on_it(jobs: Jobs, fake: FakeSlurm) -> None:
    gone(jobs, fake)
    fake.say("sacct", "", "Slurm accounting storage is disabled", 1)
    lost, accounting = look(jobs).problems
    assert lost.job == "c00-worker" and "fate is unknown" in lost.problem
    assert "accounting storage is disabled" in accounting.problem
    assert "nothing of aevo depends on it" in accounting.mend


def test_stuck_sacct_is_given_up_at_its_deadline(
    jobs: Jobs, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aevo.jobs.usage.SACCT_DEADLINE_S", 0.2)
    waiting(jobs, fake, "Priority")
    write_text(fake.folder / "sacct", "#!/bin/sh\nexec sleep 60\n", mode=0o755)
    assert look(jobs).problems == []
    assert "did not answer within" in only(look(jobs, probe=True)).problem


def test_lost_job_and_job_out_of_attempts(jobs: Jobs, fake: FakeSlurm) -> None:
    meta = jobs.spec("meta", slurm=False)
    jobs.line(meta, "intent", 50)
    collector = jobs.spec("collector", slurm=False, attempts=1)
    jobs.line(collector, "intent", 50)
    jobs.end(collector, 1, "KeyError: 'lb'")
    lost, failed = sorted(look(jobs).problems, key=lambda item: item.job != "meta")
    assert lost.problem.startswith("lost: ") and "same command again" in lost.mend
    assert failed.problem == "out of attempts, last: KeyError: 'lb'"
    assert str(collector.log(1)) in failed.mend and f"remove {collector.root}" in failed.mend


def test_failed_training_is_its_workers_business(jobs: Jobs, fake: FakeSlurm) -> None:
    waiting(jobs, fake, "Priority")
    training = jobs.submitted("c00-train-2", "12", attempts=1)
    jobs.end(training, 5, "exit code 1")
    assert look(jobs).problems == []


def test_refused_submission_and_cap(jobs: Jobs, fake: FakeSlurm) -> None:
    worker = jobs.spec("c00-worker")
    jobs.line(worker, "intent", 50)
    jobs.line(
        worker,
        "refused",
        49,
        text="Slurm refused c00-worker: no such partition -- change partition in cluster.control",
    )
    write_text(jobs.files.config, "worker: {n: 2}\ncluster: {max_jobs_per_round: 1}\n")
    refused, cap = look(jobs).problems
    assert refused.problem == "Slurm refused c00-worker: no such partition"
    assert refused.mend == "change partition in cluster.control"
    assert "cluster.max_jobs_per_round=1" in cap.problem


def test_job_that_waits_for_a_cancelled_one(jobs: Jobs, fake: FakeSlurm) -> None:
    plan = jobs.submitted("plan", "9")
    jobs.end(plan, CANCELLED, "cancelled")
    jobs.submitted("c00-worker", "10", needs=[str(plan.root)])
    fake.queue(("10", "PENDING", "Dependency", "N/A"))
    now = look(jobs)
    assert "waits for plan, which was cancelled" in only(now).problem
    assert row(now, "plan").phase == "cancelled"


def test_worker_whose_training_was_cancelled(jobs: Jobs, fake: FakeSlurm) -> None:
    worker = jobs.submitted("c00-worker", "10")
    jobs.running(worker, 90)
    jobs.end(jobs.submitted("c00-train-1", "11", ago=50), CANCELLED, "cancelled")
    fake.queue(("10", "RUNNING", "None", "N/A"))
    problem = only(look(jobs))
    assert problem.job == "c00-worker" and "c00-train-1 was cancelled" in problem.problem


def test_cancelled_candidate_is_no_problem(jobs: Jobs, fake: FakeSlurm) -> None:
    worker = jobs.submitted("c00-worker", "10", attempts=1)
    jobs.end(worker, 1, "killed")
    write_json(jobs.files.candidate("c00").cancelled, Cancelled(candidate="c00", time=1, by="me"))
    now = look(jobs)
    assert now.problems == [] and row(now, "c00").phase == "cancelled"


def test_failed_candidate_of_a_round_that_went_on_is_no_problem(
    jobs: Jobs, fake: FakeSlurm
) -> None:
    jobs.end(jobs.submitted("c00-worker", "10", attempts=1), 1, "killed")
    gone_too = jobs.submitted("c01-worker", "11")
    jobs.running(gone_too, 90)
    jobs.silence(gone_too, 80)
    assert {item.job for item in look(jobs).problems} == {"c00-worker", "c01-worker"}
    jobs.finish(jobs.submitted("collector", "12"))
    now = look(jobs)
    assert now.problems == [] and row(now, "c01").phase == "no record"


def test_times_and_gpu_hours_of_all_attempts(jobs: Jobs, fake: FakeSlurm) -> None:
    """4 GPUs on 2 nodes: 100 s that ended in order, 50 s until the last sign, 30 s until now."""
    worker = jobs.submitted("c00-worker", "10", ago=1000)
    jobs.running(worker, 990)
    train = jobs.submitted("c00-train-1", "11", ago=900, resources={"gpus": 4, "nodes": 2})
    jobs.running(train, 800, log="x\n")
    jobs.end(train, 130, "requeued by Slurm", seconds=100, requeued=True)
    os.utime(train.end(1), (jobs.now - 700, jobs.now - 700))
    jobs.silence(train, 700)
    jobs.line(train, "requeued", 610, attempt=2, job_id="11")
    jobs.running(train, 600, attempt=2, log="x\n")
    jobs.silence(train, 550, attempt=2)
    jobs.line(train, "requeued", 40, attempt=3, job_id="11")
    jobs.running(train, 30, attempt=3, log="\x1b[31mepoch 1\x1b[0m\rstep [bold]7[/bold]\n")
    fake.queue(("10", "RUNNING", "None", "N/A"), ("11", "RUNNING", "None", "N/A"))
    found = row(look(jobs), "c00")
    assert found.run_s == pytest.approx(180, abs=5)
    assert found.gpu_hours == pytest.approx(180 * 8 / 3600, abs=0.02)
    assert found.wait_s == pytest.approx(100 + 100 + 520, abs=5)
    assert found.last == "step [bold]7[/bold]"


def test_wait_for_other_jobs_is_no_queue_wait(jobs: Jobs, fake: FakeSlurm) -> None:
    worker = jobs.submitted("c00-worker", "10", ago=1000)
    jobs.submitted("collector", "12", ago=1000, after=[str(worker.root)])
    fake.queue(("10", "RUNNING", "None", "N/A"), ("12", "PENDING", "Dependency", "N/A"))
    assert row(look(jobs), "collector").wait_s == 0
    jobs.finish(worker)
    os.utime(worker.root / "product", (jobs.now - 20, jobs.now - 20))
    assert row(look(jobs), "collector").wait_s == pytest.approx(20, abs=5)


def test_round_that_is_submitted_but_not_planned(jobs: Jobs, fake: FakeSlurm) -> None:
    write_text(jobs.files.config, "worker: {n: 3}\ncluster: {kind: slurm}\nother: 1\n")
    assert [item.name for item in look(jobs).rows] == ["c00", "c01", "c02", "collector", "meta"]
    jobs.submitted("plan", "1")
    jobs.submitted("c00-worker", "2", needs=[str(jobs.files.jobs / "plan")])
    jobs.submitted("leaderboard", "3")
    fake.queue(*[(str(n), "PENDING", "Dependency", "N/A") for n in (1, 2, 3)])
    names = [item.name for item in look(jobs).rows]
    assert names == ["plan", "c00", "collector", "leaderboard", "meta"]


def test_command_prints_table_or_object(cli: Cli) -> None:
    jobs = Jobs(cli.folder)
    meta = jobs.spec("meta", slurm=False)
    jobs.line(meta, "intent", 50)
    shown = cli.plain("status", str(jobs.layout.root))
    assert shown.returncode == 0, shown.stderr
    assert "problem: meta: lost" in shown.stdout and "mend: run the same" in shown.stdout
    made = json.loads(cli.plain("status", str(jobs.layout.root), "--json").stdout)
    assert list(made) == ["campaign", "round", "rows", "problems"]
    assert (made["campaign"], made["round"]) == ("camp", 1)
    assert set(made["problems"][0]) == {"job", "problem", "mend"}
    wrong = cli.plain("status", str(jobs.layout.root), "--round", "4")
    assert wrong.returncode == 3 and wrong.stderr.count("\n") == 1


def test_narrow_terminal_gets_fewer_columns(jobs: Jobs, fake: FakeSlurm) -> None:
    waiting(jobs, fake, "JobHeldUser")
    for width, job_column in ((80, False), (200, True)):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(table(jobs.layout, 1))
        text = console.export_text()
        assert ("c00-train-1 (11)" in text) == job_column
        assert "mend: `scontrol release 11`" in text


@pytest.fixture
def cluster(slurm: Slurm) -> Iterator[list[str]]:
    """A real Slurm; the ids put into the list are cancelled afterwards."""
    ids: list[str] = []
    yield ids
    if ids:
        said("scancel", *ids)


def said(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=200, check=True)
    return done.stdout.strip()


@pytest.mark.together("slurm")
@pytest.mark.long(2)
def test_held_job_and_dependent_of_a_failed_one_on_a_real_cluster(
    tmp_path: Path, cluster: list[str]
) -> None:
    def sbatch(*options: str) -> str:
        cluster.append(said("sbatch", "--parsable", "--output=/dev/null", *options))
        return cluster[-1]

    held = sbatch("--begin=now+1hour", "--wrap=true")
    said("scontrol", "hold", held)
    failed = sbatch("--wrap=exit 1")
    dependent = sbatch(f"--dependency=afterok:{failed}", "--wrap=true")
    until(lambda: "Never" in said("squeue", "--noheader", "--format=%r", f"--jobs={dependent}"))
    jobs = Jobs(tmp_path)
    jobs.submitted("c00-worker", held)
    jobs.submitted("meta", dependent)
    now = look(jobs)
    mends = {item.job: item for item in now.problems}
    assert "JobHeld" in mends["c00-worker"].problem
    assert f"scontrol release {held}" in mends["c00-worker"].mend
    assert "DependencyNeverSatisfied" in mends["meta"].problem
    assert row(now, "meta").state == "PENDING"
    said("scontrol", "release", held)
    (jobs.files.root / ".queue.json").unlink()
    assert "c00-worker" not in {item.job for item in look(jobs).problems}
