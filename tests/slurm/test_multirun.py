"""Hydra multirun over seeds: members as Slurm jobs, as local jobs, and one after another."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from aevo.errors import ConfigError, JobError
from aevo.jobs.script import DEPTH
from aevo.jobs.submit import MAX_DEPTH
from aevo.start.multirun import launch
from tests.conftest import Cli, until
from tests.slurm.conftest import Slurm

pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra `slurm`")

pytestmark = [pytest.mark.together("slurm"), pytest.mark.long(70)]
SLURM = (
    "hydra/launcher=submitit_slurm",
    "hydra.launcher.partition=cpu",
    "hydra.launcher.timeout_min=10",
    "hydra.launcher.mem_gb=1",
    "hydra.launcher.cpus_per_task=1",
)


def members(folder: Path) -> list[str]:
    """Slurm's ids of the members."""
    found = sorted(
        path.name
        for path in (folder / ".multirun/.submitit").iterdir()
        if re.fullmatch(r"\d+(_\d+)?", path.name)
    )
    return [name for name in found if "_" in name] or found  # an array, or one job


def state(slurm: Slurm, job_id: str) -> str:
    shown = slurm.run(["scontrol", "show", "job", job_id]).stdout
    return re.findall(r"JobState=(\w+)", shown)[0]


def test_failed_member_fails_its_job_and_the_command(slurm: Slurm, slurm_cli: Cli) -> None:
    """Run from within a job (by its variables), as a user in an interactive one would."""
    (slurm_cli.runs / "regression-seed2").mkdir(parents=True)
    (slurm_cli.runs / "regression-seed2" / "campaign.yaml").write_text("name: [broken\n")
    leaked = {
        "SLURM_JOB_ID": "1",
        "SLURM_ARRAY_JOB_ID": "1",
        "SLURM_ARRAY_TASK_ID": "0",
        "SLURM_MEM_PER_CPU": "1",
        "SUBMITIT_EXECUTOR": "slurm",
        "CUDA_VISIBLE_DEVICES": "5",
    }
    done = subprocess.run(
        slurm_cli.argv(
            "campaign", "-m", *SLURM, "seed=1,2", "rounds=1", "worker.anchor_seeds=1", n=2
        ),
        capture_output=True,
        text=True,
        cwd=slurm_cli.folder,
        timeout=300,
        env=os.environ | leaked,
    )
    assert done.returncode == 3, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: member 1 (seed=2) failed: ") and "campaign.yaml" in lines[0]
    log = Path(lines[0].rsplit(" -- log ", 1)[1])
    assert "campaign.yaml" in log.read_text()
    ids = members(slurm_cli.runs)
    # a result is read as soon as it is there, a moment before its job has ended
    until(lambda: not {state(slurm, job_id) for job_id in ids} & {"RUNNING", "COMPLETING"})
    assert [state(slurm, job_id) for job_id in ids] == ["COMPLETED", "FAILED"]
    layout = slurm_cli.layout()
    assert layout.policy(2).exists() and (layout.root / "report" / "index.html").exists()


def test_member_that_is_killed_is_named(slurm: Slurm, slurm_cli: Cli) -> None:
    process = slurm_cli.start(
        "campaign",
        "-m",
        *SLURM,
        "seed=1",
        "rounds=1",
        "+hydra.launcher.additional_parameters.hold=true",
        n=2,
    )
    folder = slurm_cli.runs / ".multirun" / ".submitit"
    until(lambda: folder.exists() and len(members(slurm_cli.runs)) == 1)
    assert slurm.run(["scancel", members(slurm_cli.runs)[0]]).returncode == 0
    _, error = process.communicate(timeout=100)
    assert process.returncode == 5, error
    assert "member 0 (the only one) failed: it left no result; its job is CANCELLED" in error


@pytest.mark.parametrize("launcher", ["basic", "submitit_local"])
def test_failed_member_fails_the_command(cli: Cli, launcher: str) -> None:
    (cli.runs / "regression-seed1").mkdir(parents=True)
    (cli.runs / "regression-seed1" / "campaign.yaml").write_text("name: [broken\n")
    done = cli.run(
        "round", "-m", f"hydra/launcher={launcher}", "+round=1", "seed=1,2", "follow=false", n=2
    )
    assert done.returncode == 3, done.stdout + done.stderr
    workers = cli.layout("regression-seed2").round(1).jobs.glob("*-worker")
    assert len(list(workers)) == 2, "the other member was given up"
    assert "campaign.yaml" in done.stderr and "Traceback" not in done.stderr
    if launcher != "basic":
        assert "member 0 (seed=1) failed" in done.stderr


def test_members_that_slurm_refuses(slurm: Slurm, slurm_cli: Cli) -> None:
    done = slurm_cli.run(
        "round",
        "-m",
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.partition=nowhere",
        "seed=1,2",
        n=2,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "Invalid partition name" in last, last
    assert "hydra.launcher" in last


def test_members_are_a_level_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_CONF", "/somewhere/slurm.conf")
    with launch(["-m", SLURM[0]], []):
        assert os.environ[DEPTH] == "1" and "SLURM_JOB_ID" not in os.environ
        assert os.environ["SLURM_CONF"] == "/somewhere/slurm.conf"
    assert DEPTH not in os.environ and os.environ["SLURM_JOB_ID"] == "17"
    monkeypatch.setenv(DEPTH, str(MAX_DEPTH - 1))
    with pytest.raises(JobError, match="submits itself"), launch(["-m", SLURM[0]], []):
        pass


def test_machine_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="sbatch is not installed"), launch([SLURM[0]], []):
        raise FileNotFoundError(2, "No such file", "sbatch")
