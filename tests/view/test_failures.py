"""Failures: every attempt that did not do its work, why, and where its log is."""

import json
import os
import subprocess

import pytest

from aevo.files.documents import write_text
from aevo.jobs import autopsy
from aevo.jobs.folder import JobFolder
from aevo.view.failures import FailedAttempt, failures
from tests.conftest import Cli
from tests.support.job_records import FakeSlurm, Jobs, fake, jobs

__all__ = ["fake", "jobs"]  # fixtures

TRACEBACK = """Traceback (most recent call last):
  File "train.py", line 3, in <module>
    step()
  File "train.py", line 2, in step
    raise ValueError("bad recipe")
ValueError: bad recipe"""
OURS = TRACEBACK.replace("ValueError: bad recipe", "aevo.errors.JobError: c00-train-1: exit 1")


def only(jobs: Jobs) -> FailedAttempt:
    found = failures(jobs.layout)
    assert len(found) == 1, found
    return found[0]


def failed(jobs: Jobs, log: str, code: int = 5, message: str = "exit code 1") -> JobFolder:
    """A training on Slurm that failed by itself."""
    job = jobs.submitted("c00-train-1", "11")
    jobs.running(job, 50, log=log)
    jobs.end(job, code, message)
    return job


def test_last_traceback_exit_code_node_and_log(jobs: Jobs, fake: FakeSlurm) -> None:
    job = failed(jobs, f"{TRACEBACK.replace('bad recipe', 'first')}\nthen\n{TRACEBACK}\nlater\n")
    found = only(jobs)
    assert (found.round, found.job, found.attempt, found.job_id) == (1, "c00-train-1", 1, "11")
    assert (found.node, found.outcome, found.message) == ("node7", "exit 5", "exit code 1")
    assert found.text == TRACEBACK.split("\n")
    assert found.log == str(job.log(1))
    assert fake.calls("squeue") == fake.calls("sacct") == 0


def test_without_traceback_the_last_lines(jobs: Jobs, fake: FakeSlurm) -> None:
    failed(jobs, "".join(f"step {n}\n\n" for n in range(9)))
    assert only(jobs).text == [f"step {n}" for n in range(4, 9)]


def test_traceback_of_aevos_own_error_is_passed_over(jobs: Jobs, fake: FakeSlurm) -> None:
    failed(jobs, f"{TRACEBACK}\n\nThe above exception was the direct cause\n\n{OURS}\n")
    assert only(jobs).text == TRACEBACK.split("\n")


def test_traceback_of_one_rank_among_others() -> None:
    lines = [f"[rank1]: {line}" for line in TRACEBACK.split("\n")]
    lines.insert(3, "[rank0]: step 7")
    assert autopsy.traceback("\n".join(lines)) == TRACEBACK.split("\n")


def test_long_traceback_is_bounded() -> None:
    frames = "\n".join(f'  File "a.py", line {n}, in f' for n in range(900))
    found = autopsy.traceback(f"{autopsy.HEAD}\n{frames}\nRecursionError: too deep")
    assert len(found) == autopsy.TRACEBACK_LINES + 1 and found[-1] == "RecursionError: too deep"


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB", "CUDA out of memory"),
        ("RuntimeError: CUDA out of memory.", "CUDA out of memory"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=11.batch", "host out of memory"),
        ("bash: line 1: 4242 Killed                  python train.py", "host out of memory"),
        ("Killed", "host out of memory"),
        ("MemoryError", "host out of memory"),
        ("train.sft: diverged at step 40: loss or gradient is not finite", "diverged"),
        ("step 12 loss nan", "diverged"),
        ("OSError: [Errno 28] No space left on device", "disk full"),
        ("KeyError: 'banana'", ""),
        ("skilled workers lost inf", ""),
    ],
)
def test_cause_that_has_a_name(jobs: Jobs, fake: FakeSlurm, log: str, cause: str) -> None:
    failed(jobs, f"step 1\n{log}\n")
    found = only(jobs).cause
    assert found.startswith(cause) if cause else found == ""


def test_cause_is_not_taken_from_long_before_the_end(jobs: Jobs, fake: FakeSlurm) -> None:
    failed(jobs, "retrying after CUDA out of memory\n" + "step\n" * 200)
    assert only(jobs).cause == ""


@pytest.mark.parametrize(
    ("code", "message", "requeued", "by", "outcome"),
    [
        (124, "TIMEOUT after 60 min", True, "job", "TIMEOUT"),
        (5, "TIMEOUT after 60 min: train", False, "job", "TIMEOUT"),
        (143, "cancelled", False, "job", "CANCELLED"),
        (143, "cancelled", False, "scheduler", "CANCELLED"),
        (1, "OUT_OF_MEMORY", False, "scheduler", "OUT_OF_MEMORY"),
        (1, "ValueError: x", True, "job", "exit 1"),
        (130, "requeued by Slurm", True, "job", None),
        (0, "", False, "job", None),
    ],
)
def test_outcome_by_the_record(
    jobs: Jobs,
    fake: FakeSlurm,
    code: int,
    message: str,
    requeued: bool,
    by: str,
    outcome: str | None,
) -> None:
    job = jobs.submitted("c00-worker", "10")
    jobs.running(job, 50)
    jobs.end(job, code, message, requeued=requeued, by=by)
    jobs.finish(job)
    found = failures(jobs.layout)
    assert [item.outcome for item in found] == ([outcome] if outcome else [])
    assert all(item.requeued == requeued for item in found)


def killed(jobs: Jobs) -> JobFolder:
    """Attempt 1 lost its node, attempt 2 was killed, attempt 3 runs; all one submission."""
    job = jobs.submitted("c00-worker", "10", ago=300)
    for attempt, ago in ((1, 290), (2, 190), (3, 90)):
        if attempt > 1:
            jobs.line(job, "requeued", ago + 1, attempt=attempt, job_id="10")
        jobs.running(job, ago, attempt=attempt, log=f"turn {attempt}\n")
        jobs.silence(job, ago - 10, attempt=attempt)
    return job


def test_attempts_without_a_word_are_told_by_sacct(jobs: Jobs, fake: FakeSlurm) -> None:
    killed(jobs)
    fake.queue(("10", "RUNNING", "None", "N/A"))
    fake.say("sacct", "10|NODE_FAIL|cpu-0|0:0\n10|FAILED|cpu-1|0:9\n10|RUNNING|cpu-1|0:0\n")
    first, second = failures(jobs.layout)
    assert (first.attempt, first.outcome, first.node) == (1, "NODE_FAIL", "cpu-0")
    assert first.requeued and first.text == ["turn 1"]
    assert (second.attempt, second.outcome, second.node) == (2, "signal SIGKILL", "cpu-1")
    assert fake.calls("sacct") == 1


def test_without_sacct_they_are_lost(jobs: Jobs, fake: FakeSlurm) -> None:
    killed(jobs)
    fake.queue(("10", "RUNNING", "None", "N/A"))
    fake.say("sacct", "", "Slurm accounting storage is disabled", 1)
    assert [item.outcome for item in failures(jobs.layout)] == ["LOST", "LOST"]


@pytest.mark.parametrize(
    ("row", "outcome"),
    [
        ("OUT_OF_MEMORY", "OUT_OF_MEMORY"),
        ("TIMEOUT", "TIMEOUT"),
        ("NODE_FAIL", "NODE_FAIL"),
        ("FAILED", "FAILED"),
        ("COMPLETED", "exit 0"),
        (None, "LOST"),
        ("RUNNING", None),
    ],
)
def test_last_attempt_without_a_word_is_told_by_squeue(
    jobs: Jobs, fake: FakeSlurm, row: str | None, outcome: str | None
) -> None:
    job = jobs.submitted("c00-worker", "10")
    jobs.running(job, 90, log="turn 1\n")
    jobs.silence(job, 80)
    fake.queue(*[("10", row, "None", "N/A")] if row else [])
    assert [item.outcome for item in failures(jobs.layout)] == ([outcome] if outcome else [])


def test_job_that_died_before_its_first_line_shows_sbatchs_output(
    jobs: Jobs, fake: FakeSlurm
) -> None:
    job = jobs.submitted("c00-worker", "10")
    output = job.attempt(1) / "10_0_log.out"
    write_text(output, "/var/spool/slurmd/job10: line 9: module: command not found\n")
    jobs.end(job, 1, "FAILED", by="scheduler")
    found = only(jobs)
    assert found.outcome == "FAILED" and found.log == str(output)
    assert "module: command not found" in found.text[0]


def test_oom_that_slurm_says_in_sbatchs_output_is_named(jobs: Jobs, fake: FakeSlurm) -> None:
    job = failed(jobs, "step 1\n", message="signal 9")
    write_text(job.attempt(1) / "11_0_log.out", "slurmstepd: error: Detected 1 oom_kill event\n")
    found = only(jobs)
    assert found.cause == "host out of memory" and found.log == str(job.log(1))


def test_refused_submission(jobs: Jobs, fake: FakeSlurm) -> None:
    job = jobs.spec("c00-worker")
    jobs.line(job, "intent", 50)
    jobs.line(job, "refused", 49, text="Slurm refused c00-worker: no such partition")
    found = only(jobs)
    assert found.outcome == "REFUSED" and found.message.startswith("Slurm refused")


def test_lost_local_job(jobs: Jobs, fake: FakeSlurm) -> None:
    job = jobs.spec("meta", slurm=False)
    jobs.line(job, "intent", 50)
    assert only(jobs).outcome == "LOST"


def test_scheduler_away_still_shows_the_records(jobs: Jobs, fake: FakeSlurm) -> None:
    failed(jobs, TRACEBACK)
    jobs.running(jobs.submitted("c01-worker", "12"), 50)
    fake.say("squeue", "", "Unable to contact slurm controller", 1)
    assert [item.job for item in failures(jobs.layout)] == ["c00-train-1"]


def test_command_lists_blocks_newest_last(cli: Cli) -> None:
    jobs = Jobs(cli.folder)
    write_text(jobs.layout.campaign, "")

    def listed(*more: str) -> "subprocess.CompletedProcess[str]":
        return cli.plain("failures", str(jobs.layout.root), *more)

    nothing = listed()
    assert nothing.returncode == 0 and nothing.stdout == "no failure\n"
    for name, ago in (("meta", 10), ("collector", 99)):
        job = jobs.spec(name, slurm=False)
        jobs.line(job, "intent", 200)
        write_text(job.log(1), f"[bold]{name}[/bold]\n{TRACEBACK}\n")
        jobs.end(job, 1, "ValueError: bad recipe")
        os.utime(job.end(1), (jobs.now - ago, jobs.now - ago))
    shown = listed()
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.index("round 1, collector, attempt 1") < shown.stdout.index("round 1, meta")
    assert "on node7: exit 1" in shown.stdout and "    ValueError: bad recipe\n" in shown.stdout
    assert f"    log: {jobs.files.jobs}/meta/attempt_1/log.txt\n" in shown.stdout
    made = json.loads(listed("--json", "--round", "1").stdout)
    assert [item["job"] for item in made["failures"]] == ["collector", "meta"]
    wrong = listed("--round", "9")
    assert wrong.returncode == 3 and wrong.stderr.count("\n") == 1
