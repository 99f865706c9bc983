"""What happens to clusters: requeues, preemption, lost nodes and daemons, time limits, people.

Each test disturbs a real round on a real Slurm and asserts its final records; those that should
change nothing are compared with the records of a calm run on this machine.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aevo.files.documents import read
from aevo.files.paths import Layout
from aevo.jobs.folder import JobFolder
from aevo.jobs.state import observe
from aevo.records.evidence import Evidence
from aevo.records.job import JobSpec
from aevo.records.manifest import Manifest
from aevo.records.scores import TrainingResult
from tests.conftest import Cli, until
from tests.slurm.conftest import Slurm
from tests.support.outcome import outcome

pytestmark = [pytest.mark.together("slurm events"), pytest.mark.long(400)]

SLOW = "+model.recipe.train.step_seconds=0.15"  # 60 steps, 9 s: time for things to happen
ROUND = ("+round=1", "worker.anchor_seeds=1")


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The round's outcome where nothing happened; the step time is no part of a recipe's effect."""
    local = Cli(tmp_path_factory.mktemp("calm"))
    done = local.run("round", *ROUND, n=2)
    assert done.returncode == 0, done.stderr
    return decided(local.layout())


def decided(layout: Layout) -> dict[str, Any]:
    """The outcome without what names the (slowed) recipe's bytes."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: strip(item)
                for key, item in value.items()
                if not key.endswith("sha256") and key not in ("standing", "provenance")
            }
        if isinstance(value, list):
            return [strip(item) for item in value]
        return value

    return {
        key: strip(value) for key, value in outcome(layout, 1).items() if not key.endswith("policy")
    }


def job(layout: Layout, name: str) -> JobFolder:
    return JobFolder(layout.round(1).jobs / name)


def slurm_id(layout: Layout, name: str) -> str:
    found = observe(job(layout, name)).job_id
    assert found is not None
    return found


def await_training(layout: Layout, *names: str) -> None:
    """Waits until these trainings have left their first checkpoint."""
    for name in names:
        candidate, _, number = name.split("-")
        out = layout.round(1).candidate(candidate).run(int(number)).output
        until(lambda out=out: any(out.glob("checkpoints/step-*")))  # type: ignore[misc]


def await_attempt(layout: Layout, name: str, attempt: int) -> None:
    until(lambda: observe(job(layout, name)).attempt >= attempt)


def resumed(layout: Layout, candidate: str) -> list[int]:
    return read(TrainingResult, layout.round(1).candidate(candidate).run(1).result).resumed_from


def finish(driver: "subprocess.Popen[str]") -> None:
    out, error = driver.communicate(timeout=200)
    assert driver.returncode == 0, out + error


def gpu_jobs(slurm: Slurm, layout: Layout) -> list[str]:
    """Names of this campaign's jobs that wait for or hold GPUs."""
    rows = slurm.run(["squeue", "--noheader", "--format=%j|%b|%T"]).stdout.splitlines()
    return [
        row
        for row in rows
        if f".{layout.root.name}." in row and "gpu" in row and "COMPLETING" not in row
    ]


def test_requeued_worker_and_training_go_on(
    slurm: Slurm, slurm_cli: Cli, calm: dict[str, Any]
) -> None:
    driver = slurm_cli.start("round", *ROUND, SLOW, n=2)
    layout = slurm_cli.layout()
    await_training(layout, "c00-train-1", "c01-train-1")
    for name in ("c01-worker", "c00-train-1"):
        done = slurm.run(["scontrol", "requeue", slurm_id(layout, name)])
        assert done.returncode == 0, done.stderr
    finish(driver)
    assert decided(layout) == calm
    assert resumed(layout, "c00"), "the training began anew"
    for name in ("c01-worker", "c00-train-1"):
        folder = job(layout, name)
        assert observe(folder).attempt == 2
        assert folder.log(1).exists() and folder.log(2).exists()
        assert folder.latest.resolve() == folder.attempt(2)
        end = folder.ended(1)
        assert end is None or end.requeued
    assert observe(job(layout, "c01-train-1")).attempt == 1, "an adopted training ran twice"


def test_preempted_training_goes_on(slurm: Slurm, slurm_cli: Cli, calm: dict[str, Any]) -> None:
    driver = slurm_cli.start(
        "round",
        *ROUND,
        "+model.recipe.train.step_seconds=0.4",
        "cluster.train.partition=h200-preempt",
        n=2,
    )
    layout = slurm_cli.layout()
    await_training(layout, "c00-train-1")
    node = node_of(slurm, slurm_id(layout, "c00-train-1"))
    rival = slurm.run(
        [
            "sbatch",
            "--partition=h200",
            f"--nodelist={node}",
            "--gres=gpu:8",
            "--output=/dev/null",
            "--wrap=sleep 1",
        ]
    )
    assert rival.returncode == 0, rival.stderr
    finish(driver)
    assert decided(layout) == calm
    assert observe(job(layout, "c00-train-1")).attempt == 2
    assert resumed(layout, "c00")


def test_lost_nodes_cost_no_finished_step(
    slurm: Slurm, slurm_cli: Cli, calm: dict[str, Any]
) -> None:
    """One node is declared down; on another slurmd and the job's stepd are killed."""
    driver = slurm_cli.start("round", *ROUND, SLOW, "cluster.train.exclusive=true", n=2)
    layout = slurm_cli.layout()
    await_training(layout, "c00-train-1", "c01-train-1")
    down, killed = (
        node_of(slurm, slurm_id(layout, name)) for name in ("c00-train-1", "c01-train-1")
    )
    assert down != killed
    stepd = slurm.daemons(f"slurmstepd.*{re.escape(killed)}")
    job_stepd = stepd_of(slurm, slurm_id(layout, "c01-train-1"))
    os.kill(slurm.pid(f"slurmd.{killed}"), signal.SIGKILL)
    for pid in {*job_stepd, *stepd}:
        os.kill(pid, signal.SIGKILL)
    slurm.run(["scontrol", "update", f"nodename={down}", "state=down", "reason=test"])
    try:
        await_attempt(layout, "c00-train-1", 2)
    finally:
        slurm.run(["scontrol", "update", f"nodename={down}", "state=resume"])
        slurm.heal()
    finish(driver)
    assert decided(layout) == calm
    assert resumed(layout, "c00"), "the training began anew"


def node_of(slurm: Slurm, job_id: str) -> str:
    return slurm.run(["squeue", "--noheader", f"--jobs={job_id}", "--format=%N"]).stdout.strip()


def stepd_of(slurm: Slurm, job_id: str) -> list[int]:
    return slurm.daemons(rf"slurmstepd: \[{job_id}\.")


def test_lost_controller_and_driver_lose_nothing(
    slurm: Slurm, slurm_cli: Cli, calm: dict[str, Any]
) -> None:
    slower = "+model.recipe.train.step_seconds=0.3"
    driver = slurm_cli.start("round", *ROUND, slower, n=2)
    layout = slurm_cli.layout()
    await_training(layout, "c00-train-1", "c01-train-1")
    # what slurmctld has not yet saved it forgets, and starts such a job a second time: a change
    # makes it save
    asked = time.time()
    slurm.run(["scontrol", "update", f"job={slurm_id(layout, 'c00-train-1')}", "comment=save"])
    until(lambda: (slurm.root / "state/job_state").stat().st_mtime > asked)
    os.kill(slurm.pid("slurmctld"), signal.SIGKILL)
    os.killpg(driver.pid, signal.SIGKILL)
    again = slurm_cli.start("round", *ROUND, slower, n=2)
    until(lambda: "done" in trainings(layout) or again.poll() is not None)
    slurm.heal()
    finish(again)
    assert decided(layout) == calm
    for name in ("c00-worker", "c01-worker", "c00-train-1", "c01-train-1", "collector", "meta"):
        assert observe(job(layout, name)).attempt == 1, f"{name} was submitted twice"


def trainings(layout: Layout) -> str:
    results = [layout.round(1).candidate(name).run(1).result.exists() for name in ("c00", "c01")]
    return "done" if all(results) else "running"


def test_worker_outlives_its_time_limit_and_holds_no_gpu(
    slurm: Slurm, slurm_cli: Cli, calm: dict[str, Any]
) -> None:
    driver = slurm_cli.start(
        "round",
        *ROUND,
        "+model.recipe.train.step_seconds=0.7",
        "cluster.control.time_min=1",
        "cluster.signal_s=25",
        n=2,
    )
    layout = slurm_cli.layout()
    await_attempt(layout, "c00-worker", 2)
    finish(driver)
    assert decided(layout) == calm
    end = job(layout, "c00-worker").ended(1)
    assert end is not None and end.requeued and "TIMEOUT" in end.message
    assert observe(job(layout, "c00-train-1")).attempt == 1, "the training did not go on alone"
    shown = slurm.run(["scontrol", "show", "job", slurm_id(layout, "c00-worker")]).stdout
    assert "gres/gpu" not in shown


def test_cancelled_candidates_leave_no_gpu_job_and_the_round_goes_on(
    slurm: Slurm, slurm_cli: Cli
) -> None:
    """One worker is ended by scancel, one candidate by aevo.cancel."""
    driver = slurm_cli.start("round", *ROUND, "+model.recipe.train.step_seconds=0.3", n=3)
    layout = slurm_cli.layout()
    await_training(layout, "c01-train-1", "c02-train-1")
    assert slurm.run(["scancel", slurm_id(layout, "c01-worker")]).returncode == 0
    done = slurm_cli.plain("cancel", str(layout.root), "--candidate", "c02")
    assert done.returncode == 0, done.stderr
    until(lambda: not [row for row in gpu_jobs(slurm, layout) if not row.startswith("c00")])
    assert layout.round(1).candidate("c00").manifest.exists() is False, "too late to show anything"
    finish(driver)
    evidence = read(Evidence, layout.round(1).evidence)
    status = {item.candidate: (item.status, item.failure or "") for item in evidence.candidates}
    assert status["c00"][0] == "ok"
    assert status["c01"][0] == "missing"
    assert status["c02"][0] == "missing" and "cancelled" in status["c02"][1]
    assert gpu_jobs(slurm, layout) == []


def test_worker_that_is_cancelled_while_it_waits_takes_its_training_with_it(
    slurm: Slurm, slurm_cli: Cli
) -> None:
    """Requeued, it gets no signal: the training must find out by itself."""
    driver = slurm_cli.start("round", *ROUND, "+model.recipe.train.step_seconds=1.0", n=2)
    layout = slurm_cli.layout()
    await_training(layout, "c00-train-1")
    worker = slurm_id(layout, "c01-worker")
    slurm.run(["scontrol", "requeue", worker])
    until(lambda: observe(job(layout, "c01-worker")).state == "PENDING")
    slurm.run(["scancel", worker])
    until(lambda: observe(job(layout, "c01-train-1")).phase == "failed")
    assert "has ended" in observe(job(layout, "c01-train-1")).message
    os.killpg(driver.pid, signal.SIGKILL)


def test_failed_candidate_is_data(slurm: Slurm, slurm_cli: Cli) -> None:
    done = slurm_cli.run(
        "round",
        *ROUND,
        "policy.axes=[broken]",
        "worker.trainings=1",
        f"substrate={broken(slurm_cli)}",
        n=2,
    )
    assert done.returncode == 0, done.stderr
    layout = slurm_cli.layout()
    assert read(Manifest, layout.round(1).candidate("c01").manifest).status == "failed"
    evidence = read(Evidence, layout.round(1).evidence)
    summary = next(item for item in evidence.candidates if item.candidate == "c01")
    assert summary.status == "failed" and summary.failure
    assert layout.policy(2).exists()
    assert gpu_jobs(slurm, layout) == []
    # Slurm says COMPLETING until the node is clean, which may be after the round's end.
    training = slurm_id(layout, "c01-train-1")
    until(lambda: state_of(slurm, training) not in ("RUNNING", "COMPLETING"))
    assert state_of(slurm, training) == "FAILED", (
        "a job that did not do its work looks done to Slurm"
    )
    told = slurm_cli.plain("failures", str(layout.root))
    assert "ZeroDivisionError" in told.stdout and "c01-train-1" in told.stdout


def broken(commands: Cli) -> Path:
    """A copy of the substrate whose catalogue has a move that breaks the training code."""
    import shutil

    from tests.conftest import REGRESSION

    folder = commands.folder / "substrate"
    shutil.copytree(REGRESSION, folder)
    catalogue = folder / "axes.yaml"
    catalogue.write_text(
        catalogue.read_text()
        + (
            "- id: broken\n  category: data_construction\n  brief: Break it.\n"
            "  knobs: [train/fit.py]\n  moves:\n  - id: divide\n    why: to fail\n"
            '    patch: [{file: train/fit.py, find: "reached = 0.0,",'
            ' replace: "reached = 1 // 0,"}]\n'
        )
    )
    done = commands.plain("substrate", "freeze", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def no_accounting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose sacct does not work."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sacct").write_text(
        "#!/bin/sh\necho 'sacct: error: Slurm accounting storage is disabled' >&2\nexit 1\n"
    )
    (folder / "sacct").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    yield


def test_killed_training_is_noticed_without_accounting(
    slurm: Slurm, slurm_cli: Cli, no_accounting: None
) -> None:
    driver = slurm_cli.start("round", *ROUND, SLOW, n=2)
    layout = slurm_cli.layout()
    await_training(layout, "c01-train-1")
    running = job(layout, "c01-train-1").current()
    assert running is not None and running.child is not None
    for pid in (running.pid, running.child):
        os.kill(pid, signal.SIGKILL)
    finish(driver)
    manifest = read(Manifest, layout.round(1).candidate("c01").manifest)
    assert manifest.runs[0].status == "failed" and "FAILED" in (manifest.runs[0].failure or "")
    assert len(manifest.runs) == 2 and manifest.status == "ok", "the agent did not try again"


def test_job_whose_parent_slurm_has_forgotten_judges_by_records(
    slurm: Slurm, slurm_cli: Cli
) -> None:
    """Slurm takes an unknown id for a satisfied dependency; meta must not take it for one."""
    driver = slurm_cli.start("round", *ROUND, "+model.recipe.train.step_seconds=1.0", n=2)
    layout = slurm_cli.layout()
    await_training(layout, "c00-train-1")
    os.killpg(driver.pid, signal.SIGKILL)
    done = slurm_cli.plain("cancel", str(layout.root))
    assert done.returncode == 0, done.stderr
    meta = job(layout, "meta")
    spec = read(JobSpec, meta.spec)
    script = next(meta.attempt(1).glob("*_submission.sh"))
    sent = slurm.run(
        [
            "sbatch",
            "--parsable",
            "--dependency=afterok:999999",
            "--kill-on-invalid-dep=yes",
            str(script),
        ]
    )
    assert sent.returncode == 0, sent.stderr
    until(lambda: state_of(slurm, sent.stdout.strip()) in ("FAILED", "PENDING BeginTime"))
    assert not Path(spec.product).exists()
    assert "evidence.json is missing" in "".join(
        path.read_text() for path in meta.root.glob("attempt_*/log.txt")
    )
    slurm.run(["scancel", sent.stdout.strip()])


def state_of(slurm: Slurm, job_id: str) -> str:
    row = slurm.run(
        ["squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%T %r"]
    ).stdout.strip()
    return row if row.startswith("PENDING") else row.split(" ")[0]


def test_job_that_submits_copies_of_itself_is_stopped(
    slurm: Slurm, slurm_cli: Cli, tmp_path: Path
) -> None:
    from tests.slurm.replicate import start

    started = time.time()
    names = start(tmp_path, slurm)
    until(
        lambda: (
            not slurm.run(
                ["squeue", "--noheader", "--states=PENDING,RUNNING,COMPLETING", "--format=%j"]
            ).stdout.count(names)
        )
    )
    everything = slurm.run(["squeue", "--noheader", "--states=all", "--format=%j"]).stdout
    assert everything.count(names) <= 6, "the cap on jobs of a round did not hold"
    logs = "".join(path.read_text() for path in tmp_path.glob("round-01/jobs/*/attempt_*/log.txt"))
    assert "max_jobs_per_round" in logs and "submits itself" in logs, logs
    assert time.time() - started < 120
