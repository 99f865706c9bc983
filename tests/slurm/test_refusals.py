"""What Slurm refuses: its own words and the key to change in one line, and nothing in the queue."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from aevo.config.schema import Config, load
from aevo.errors import ConfigError
from aevo.jobs.folder import JobFolder
from aevo.jobs.script import refusal
from aevo.jobs.submit import submit
from aevo.records.job import JobSpec, Step
from aevo.start.forecast import ask_slurm
from tests.conftest import REPO, Cli
from tests.slurm.conftest import Slurm

pytestmark = [pytest.mark.together("slurm"), pytest.mark.long(10)]

SHORT = f"aevo-test-{os.getpid()}"  # a partition whose jobs may take a minute
# overrides, Slurm's words, key
WRONG = {
    "partition": (
        "cluster.common.partition=nowhere cluster.evaluate.partition=null",
        "invalid partition specified: nowhere",
        "change partition in",
    ),
    "account": ("cluster.common.account=nobody", "Invalid account", "change account or partition"),
    "qos": ("cluster.common.qos=platinum", "Invalid qos specification", "change qos in"),
    "gres": (
        "cluster.evaluate.gres='gpu:a100:{gpus}'",
        "node configuration is not available",
        "gres",
    ),
    "gpus": ("cluster.evaluate.gpus=9", "node configuration is not available", "gpus"),
    "no_gpu_there": (
        "cluster.evaluate.partition=cpu",
        "node configuration is not available",
        "change partition",
    ),
    "constraint": (
        "cluster.common.constraint=quantum",
        "Invalid feature specification",
        "change constraint in",
    ),
    "reservation": (
        "cluster.common.reservation=mine",
        "Requested reservation is invalid",
        "change reservation in",
    ),
    "memory": (
        "cluster.evaluate.memory_gb=9000",
        "node configuration is not available",
        "memory_gb",
    ),
    "nodelist": (
        "cluster.common.nodelist=nohost",
        "Invalid node name specified",
        "change nodelist or exclude",
    ),
    "exclude": (
        "cluster.common.exclude=nohost",
        "Invalid node name specified",
        "change nodelist or exclude",
    ),
    "mail_type": (
        "cluster.common.mail_type=PIGEON",
        "Invalid --mail-type specification",
        "change mail_type",
    ),
    "extra": (
        "+cluster.common.extra.frobnicate=1",
        "unrecognized option '--frobnicate=1'",
        "change extra in",
    ),
    "licenses": (
        "+cluster.common.extra.licenses='foo:1'",
        "Invalid license specification",
        "change extra in",
    ),
}
ENFORCED = {"account", "qos"}  # only where accounting is enforced


def in_queue(slurm: Slurm, commands: Cli) -> str:
    """Our jobs that wait or run."""
    shown = slurm.run(["squeue", "--noheader", "--format=%Z %j"]).stdout
    return "\n".join(line for line in shown.splitlines() if str(commands.folder) in line)


def one_line(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def short_partition(slurm: Slurm) -> Iterator[str]:
    """A partition of the dev cluster whose jobs may take a minute."""
    made = slurm.run(["scontrol", "create", f"partition={SHORT}", "Nodes=h200-0", "MaxTime=1"])
    assert made.returncode == 0, made.stderr
    yield SHORT
    slurm.run(["scontrol", "delete", f"partition={SHORT}"])


def enforced(slurm: Slurm, what: str) -> None:
    """Skips where the cluster cannot refuse."""
    if what in ENFORCED and "associations" not in slurm.run(["scontrol", "show", "config"]).stdout:
        pytest.skip("this cluster enforces no accounts, so it refuses none")


def configured(*words: str) -> Config:
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        return load(compose("config", overrides=["cluster=devcluster", "worker.n=2", *words]))


@pytest.mark.parametrize("what", WRONG)
def test_refusal_names_slurms_words_and_the_key(slurm: Slurm, tmp_path: Path, what: str) -> None:
    enforced(slurm, what)
    words, said, mend = WRONG[what]
    config = configured(*words.split(" "))
    spec = JobSpec(
        name="scores",
        kind="evaluate",
        campaign="refused",
        product=str(tmp_path / "p"),
        folder=str(tmp_path / "round-01" / "jobs" / "scores"),
        steps=[Step(argv=["true"], cwd="/")],
    )
    with pytest.raises(ConfigError) as error:
        submit(spec, config.cluster)
    line = str(error.value)
    assert said in line and mend in line and "cluster.evaluate" in line, line
    assert "\n" not in line
    assert "scores.round-01.refused" not in slurm.run(["squeue", "-h", "--format=%j"]).stdout
    events = [item.event for item in JobFolder(Path(spec.folder)).lines()]
    assert events == ["intent", "refused"]


@pytest.mark.parametrize("what", ["partition", "extra"])
def test_refusal_ends_a_command_in_one_line(slurm: Slurm, slurm_cli: Cli, what: str) -> None:
    words, said, mend = WRONG[what]
    line = one_line(slurm_cli.run("round", "+round=1", *words.split(" "), n=2))
    assert said in line and mend in line, line
    assert in_queue(slurm, slurm_cli) == ""


def preflight(*words: str) -> str:
    """What is said before anything is submitted."""
    config = configured(*words)
    with pytest.raises(ConfigError) as error:
        ask_slurm(config, 1)
    return str(error.value)


def test_time_over_the_partitions_limit(slurm: Slurm, short_partition: str) -> None:
    asked = slurm.run(
        ["sbatch", "--test-only", f"--partition={short_partition}", "--time=5", "--wrap=true"]
    )
    if asked.returncode == 0:
        pytest.skip("EnforcePartLimits=NO: Slurm takes the job and lets it wait for ever")
    said = preflight(f"cluster.evaluate.partition={short_partition}")
    assert "time limit is invalid" in said and "change time_min in cluster.evaluate" in said, said


@pytest.mark.parametrize("section", ["control", "train", "evaluate"])
def test_every_section_is_asked_for_before_anything_is_submitted(
    slurm: Slurm, section: str
) -> None:
    said = preflight(f"cluster.{section}.constraint=quantum")
    assert f"change constraint in cluster.{section}" in said, said


def test_all_refusals_at_once(slurm: Slurm) -> None:
    said = preflight(
        "cluster.control.constraint=quantum",
        "cluster.train.partition=nowhere",
        "cluster.evaluate.memory_gb=9000",
    )
    for key in (
        "change constraint in cluster.control",
        "change partition in cluster.train",
        "memory_gb or constraint in cluster.evaluate",
    ):
        assert key in said, said


def test_machine_without_slurm(slurm_cli: Cli, tmp_path: Path) -> None:
    done = subprocess.run(
        slurm_cli.argv("round", "+round=1", n=2),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PATH": "/nowhere"},
        timeout=200,
    )
    line = one_line(done)
    assert "sbatch is not installed here" in line and "cluster=local" in line, line


@pytest.mark.parametrize("path", ["100%j", "back\\slash"])
def test_path_that_sbatch_would_misread(slurm: Slurm, path: str) -> None:
    escaped = path.replace("\\", "\\\\")
    said = preflight(f'runs="/nowhere/{escaped}"')
    assert "sbatch cannot write to" in said and "runs=PATH" in said, said


def test_line_break_in_an_option(slurm: Slurm) -> None:
    said = preflight('cluster.train.comment="a\nb"')
    assert "cluster.train.comment has a line break" in said


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        (
            "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
            "(job submit "
            "limit, user's size and/or time limits)",
            "change account, qos, time_min or nodes in",
        ),
        (
            "sbatch: error: Batch job submission failed: Requested time limit is invalid "
            "(missing or "
            "exceeds some limit)",
            "change time_min in",
        ),
        (
            "sbatch: error: Memory specification can not be satisfied\n"
            "sbatch: error: Batch job submission failed: Requested node configuration is not "
            "available",
            "memory_gb",
        ),
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition "
            "combination specified",
            "change account or partition in",
        ),
        ("sbatch: error: invalid number\n", "see cluster.train or cluster.common"),
        ("", "failed without a word"),
    ],
)
def test_words_of_other_sites(words: str, mend: str) -> None:
    spec = JobSpec(
        name="c00-train-1", kind="train", campaign="c", folder="/r/round-01/jobs/x", product="/r/p"
    )
    error = str(refusal(spec, words))
    assert mend in error and "cluster.train" in error
    for line in words.splitlines():
        assert line.rsplit("failed: ", 1)[-1].removeprefix("sbatch: error: ") in error
