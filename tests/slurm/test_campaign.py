"""A campaign on Slurm: the same records as on one machine, the whole graph submitted at once."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aevo.files.documents import read
from aevo.files.paths import Layout
from aevo.jobs.state import observe
from aevo.plan.cancel import job_folders
from aevo.records.job import JobSpec
from aevo.round import is_finished
from tests.conftest import REGRESSION, REPO, SLOW, Cli, until
from tests.slurm.conftest import QUICK, Slurm
from tests.support.outcome import outcome

pytestmark = [pytest.mark.together("slurm"), pytest.mark.long(230)]


def test_campaign_on_slurm_ends_with_the_records_of_a_local_one(
    slurm: Slurm, slurm_cli: Cli, undisturbed: Layout
) -> None:
    """Submitted by a command that returns at once; every round goes on without any driver."""
    started = slurm_cli.run("campaign", "rounds=2", "follow=false", SLOW, n=3)
    assert started.returncode == 0, started.stderr
    layout = slurm_cli.layout()
    assert "aevo.status" in started.stdout and "scripts/tail" in started.stdout
    until(lambda: is_finished(layout, 2), 300)
    assert outcome(layout, 2) == outcome(undisturbed, 2)

    rows = slurm.run(["squeue", "--noheader", "--states=all", "--format=%i|%P|%T"]).stdout
    shown = {line.split("|")[0]: line.split("|")[1:] for line in rows.splitlines()}
    kinds: dict[str, int] = {}
    for job in job_folders(layout):
        spec, state = read(JobSpec, job.spec), observe(job)
        assert state.attempt == 1, f"{spec.name} was submitted {state.attempt} times"
        partition, word = shown[state.job_id or ""]
        compute = spec.kind in ("train", "evaluate", "leaderboard")
        assert partition == ("h200" if compute else "cpu"), spec.name
        assert word in ("COMPLETED", "COMPLETING", "RUNNING"), spec.name
        kinds[spec.kind] = kinds.get(spec.kind, 0) + 1
    assert kinds == {
        "worker": 6,
        "train": 8,
        "evaluate": 9,
        "leaderboard": 2,
        "collector": 2,
        "meta": 2,
        "plan": 1,
    }


def test_command_that_follows_adopts_what_runs(slurm: Slurm, slurm_cli: Cli) -> None:
    """Ctrl-C only stops following; the same command follows again and submits nothing twice."""
    driver = slurm_cli.start("round", "+round=1", "+model.recipe.train.step_seconds=0.1", n=2)
    layout = slurm_cli.layout()
    until(lambda: any(layout.root.glob("round-01/c*/train/1/out/metrics.jsonl")))
    os.kill(driver.pid, signal.SIGINT)
    _, error = driver.communicate(timeout=200)
    assert driver.returncode == 130 and "the jobs go on" in error
    again = slurm_cli.run("round", "+round=1", "+model.recipe.train.step_seconds=0.1", n=2)
    assert again.returncode == 0, again.stderr
    assert {observe(job).attempt for job in job_folders(layout)} == {1}


def test_queued_jobs_run_what_was_submitted(slurm: Slurm, tmp_path: Path) -> None:
    """The checkout is broken after submission: code, configuration, substrate, constitution."""
    checkout = tmp_path / "check out"  # a path with a space, as users have
    checkout.mkdir()
    for name in ("aevo", "conf"):
        shutil.copytree(REPO / name, checkout / name)
    shutil.copytree(REGRESSION, checkout / "stack")
    shutil.copy(REPO / "constitution.txt", checkout)
    command = [
        sys.executable,
        "-m",
        "aevo.round",
        "--config-dir",
        str(REPO / "tests/conf"),
        "model=regression",
        f"substrate={checkout / 'stack'}",
        f"runs={checkout / 'runs'}",
        "worker.n=2",
        *QUICK,
        "+round=1",
        "follow=false",
        "+cluster.common.extra.begin=now+6",
    ]
    environment = slurm.env() | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=checkout, env=environment)
    assert done.returncode == 0, done.stderr
    root = checkout / "runs" / "regression-seed1"
    for file in ("aevo/work/worker.py", "aevo/jobs/execute.py", "stack/train/fit.py"):
        (checkout / file).write_text("raise SystemExit('this is not what was submitted')\n")
    (checkout / "constitution.txt").write_text("anything goes\n")
    shutil.rmtree(checkout / "conf")
    until(lambda: (root / "policy" / "round-02.yaml").exists())
    logs = [path.read_text() for path in root.glob("round-01/jobs/*/attempt_*/log.txt")]
    assert logs and "not what was submitted" not in "".join(logs)


def test_round_can_be_submitted_with_plain_sbatch(slurm: Slurm, tmp_path: Path) -> None:
    """`sbatch slurm/round.sbatch 1 …` in the repository: a small job submits the round."""
    sent = slurm.run(
        [
            "sbatch",
            "--parsable",
            "--wait",
            f"--output={tmp_path}/driver.out",
            f"--chdir={REPO}",
            f"--export=ALL,AEVO_VENV={sys.prefix}",
            str(REPO / "slurm/round.sbatch"),
            "1",
            "--config-dir=tests/conf",
            "model=regression",
            f"substrate={REGRESSION}",
            f"runs={tmp_path}/runs",
            "worker.n=2",
            *QUICK,
        ]
    )
    log = (tmp_path / "driver.out").read_text()
    assert sent.returncode == 0, sent.stderr + log
    until(lambda: (tmp_path / "runs/regression-seed1/policy/round-02.yaml").exists())
