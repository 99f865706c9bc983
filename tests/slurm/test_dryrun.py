"""The dry run: golden scripts, nothing written, the bytes that are really submitted, and scripts
that a real Slurm accepts.

    AEVO_WRITE_GOLDEN=1 pytest tests/slurm/test_dryrun.py -k golden    writes the golden files anew
"""

import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from aevo.config.schema import load
from aevo.files.documents import read
from aevo.jobs.folder import JobFolder
from aevo.jobs.launch import argv
from aevo.records.job import JobSpec
from aevo.start.command import CONF
from tests.conftest import REPO, Cli
from tests.slurm.conftest import Slurm

pytestmark = [pytest.mark.together("slurm"), pytest.mark.long(110)]

GOLDEN = Path(__file__).parent / "golden"
SITE = (  # what a demanding site asks for
    "cluster.common.account=lab",
    "cluster.common.qos=high",
    "cluster.common.reservation=maint",
    "cluster.train.constraint='h200&ib'",
    "cluster.common.exclude='h200-[3-5]'",
    "cluster.common.mail_type=FAIL",
    "cluster.common.mail_user=me@example.org",
    'cluster.common.comment="it\'s ours"',
    "+cluster.common.extra.licenses='scratch:1'",
    "+cluster.train.extra.nice=100",
    "+cluster.train.extra.contiguous=true",
    "cluster.train.setup=['module load cuda/12.8']",
    "+cluster.train.environment.NCCL_DEBUG='WARN x'",
    "cluster.train.nodes=2",
    "cluster.train.tasks_per_node=8",
    "cluster.train.gpus=8",
    "cluster.common.requeue=false",
)
PYXIS = (
    *SITE,
    "cluster.container.kind=pyxis",
    "cluster.container.image='reg.example.org#aevo:1'",
    "cluster.container.mounts=['/data:/data','/models:/models']",
    "cluster.container.arguments=['--container-writable']",
    "cluster.train.srun=['--mpi=pmix']",
)
APPTAINER = (
    "cluster.container.kind=apptainer",
    "cluster.container.image=/images/aevo.sif",
    "cluster.container.mounts=['/data:/data']",
)
VARIANTS = {"h200": (), "h200_site_pyxis": PYXIS, "h200_apptainer": APPTAINER}
H200 = (
    "rounds=1",
    "worker.n=2",
    "cluster=h200",
    "model=nemotron3_nano_30b",
    "model.base=/models/nemotron",
    "dry_run=true",
)

CONTAINED = (
    "sandbox=none",
    "cluster.container.kind=pyxis",
    "cluster.container.image=/images/nemo-26.06.sqsh",
    "cluster.container.mounts=['/models:/models']",
    "cluster.container.python=python",
    "cluster.train.srun=['--mpi=pmix']",
)
# One round of each production model, as the command in the documentation has it.
MODELS = {
    "nemotron3_nano_30b": (),
    "nemotron3_nano_30b_bridge": ("trainer=bridge", "trainer.processes=8", "model.train.gpus=8"),
    "nemotron3_nano_30b_nemo_rl": (
        "sandbox=none",
        "trainer=nemo_rl",
        "model.train.gpus=8",
        "cluster.train.cpus=96",
        "cluster.container.kind=pyxis",
        "cluster.container.image=/images/nemo-rl-v0.7.0.sqsh",
        "cluster.container.mounts=['/models:/models:ro','/shared:/shared']",
        "cluster.container.python=python",
    ),
    "nemotron3_super_120b": (),
    "nemotron3_super_120b_pyxis": CONTAINED,
    "nemotron3_ultra_550b": (),
    "nemotron3_ultra_550b_apptainer": (
        "sandbox=none",
        "cluster.container.kind=apptainer",
        "cluster.container.image=/images/nemo-26.06.sif",
        "cluster.container.mounts=['/models:/models']",
        "cluster.container.python=python",
    ),
}


def dry_run(
    folder: Path, *words: str, env: dict[str, str] | None = None, module: str = "aevo.campaign"
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        text=True,
        cwd=folder,
        capture_output=True,
        timeout=200,
        env=env,
    )


def scripts(printed: str) -> dict[str, str]:
    """Name of each job and all that was printed of it."""
    parts = printed.split("\n#==> ")[1:]
    parts[-1] = parts[-1].rpartition("\n# nothing was written")[0].rpartition("\n# ")[0]
    return {re.split(r"[\n,]", part)[0].split("/")[1]: part for part in parts}


def submitted(part: str) -> str:
    """What of a printed job goes to sbatch."""
    lines = part[part.index("#!/bin/bash") :].splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("# runs: "))


def quoted(path: Path) -> str:
    """A path as a Hydra override takes it."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'runs="{text}"'


@pytest.mark.parametrize("name", VARIANTS)
def test_golden(tmp_path: Path, name: str) -> None:
    check_golden(name, tmp_path, dry_run(tmp_path, *H200, *VARIANTS[name]))


@pytest.mark.parametrize("name", MODELS)
def test_golden_round_of_a_production_model(tmp_path: Path, name: str) -> None:
    """Two candidates instead of eight, so that the files can be read."""
    model = "_".join(name.split("_")[:3])
    env = {
        key: value for key, value in os.environ.items() if key not in ("AEVO_MODELS", "AEVO_VLLM")
    }
    done = dry_run(
        tmp_path,
        "+round=1",
        "cluster=h200",
        f"model={model}",
        "worker.n=2",
        "dry_run=true",
        *MODELS[name],
        env=env,
        module="aevo.round",
    )
    check_golden(f"round_{name}", tmp_path, done)
    runs = [
        line for line in done.stdout.splitlines() if "# runs: " in line and " -m train." in line
    ]
    assert len(runs) == 2
    asked = re.findall(r"#SBATCH --nodes=(\d+)", scripts(done.stdout)["c00-train-1"])
    if asked != ["1"]:
        contained = "_" in name.removeprefix(model) and not name.endswith("nemo_rl")
        tasks = int(asked[0]) * (8 if contained else 1)  # Ray takes one a node
        assert all(f"--nodes={asked[0]} --ntasks={tasks} " in line for line in runs)
        confined = ["in one sandbox a node, 8 ranks of: " in line for line in runs]
        assert confined == ["sandbox=none" not in MODELS[name]] * 2  # else a task a rank


def check_golden(name: str, tmp_path: Path, done: "subprocess.CompletedProcess[str]") -> None:
    """Compares what was printed, without what differs by place and day, with its golden file."""
    assert done.returncode == 0, done.stderr
    text = done.stdout.replace(str(tmp_path), "RUNS").replace(sys.executable, "PYTHON")
    text = text.replace(str(REPO), "REPO")
    text = re.sub(r"snapshots/[0-9a-f]{12}", "snapshots/DIGEST", text)
    text = re.sub(r"\.[0-9a-f]{8}-1\n", ".TAG-1\n", text)
    text = re.sub(r"(rank\.py|node\.py \S+ \d+) \d+", r"\1 PORT", text)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("AEVO_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_dry_run_writes_nothing_and_needs_no_slurm(tmp_path: Path) -> None:
    for name in ("here", "home", "tmp"):
        (tmp_path / name).mkdir()
    env = {
        "PATH": "/nowhere",
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = dry_run(tmp_path / "here", *H200, env=env)
    assert done.returncode == 0, done.stderr
    assert "c01-evaluate-1" in done.stdout
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    # matplotlib keeps a list of fonts in HOME, once, whoever imports it
    assert [name for name in left if not name.startswith("fontlist")] == []
    assert list((tmp_path / "here").iterdir()) == []
    last = done.stdout.strip().splitlines()[-1]
    assert last == shlex.join(["python", "-m", "aevo.campaign", *H200[:-1]])


def test_every_two_conf_files_load_together() -> None:
    """All combinations would be thousands; what one file spoils for another shows in a pair, and
    each pair is in one of these choices."""
    groups = {
        folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
        for folder in sorted(CONF.iterdir())
        if folder.is_dir()
    }
    assert {"model", "cluster", "agent", "leaderboard", "policy"} <= set(groups)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for choice in covering(groups):
            load(compose("config", overrides=[f"{name}={file}" for name, file in choice.items()]))


def covering(groups: dict[str, list[str]]) -> Iterator[dict[str, str]]:
    """Choices of a file of each group, until every two files of two groups have met."""

    def pairs(choice: dict[str, str]) -> set[tuple[tuple[str, str], ...]]:
        return set(itertools.combinations(sorted(choice.items()), 2))

    left = set[tuple[tuple[str, str], ...]]()
    for one, other in itertools.combinations(groups, 2):
        for files in itertools.product(groups[one], groups[other]):
            left |= pairs(dict(zip((one, other), files, strict=True)))
    while left:
        choice = dict(min(left))
        for name in sorted(groups.keys() - choice.keys()):
            new = {file: len(left & pairs(choice | {name: file})) for file in groups[name]}
            choice[name] = max(groups[name], key=new.__getitem__)
        left -= pairs(choice)
        yield choice


@pytest.mark.parametrize("folder", ["runs", 'a b\'s "q" $x; ü'])
def test_slurm_accepts_every_printed_script(slurm: Slurm, tmp_path: Path, folder: str) -> None:
    done = dry_run(
        tmp_path,
        *H200[:-1],
        "dry_run=true",
        quoted(tmp_path / folder),
        "cluster.control.partition=cpu",
        "cluster.train.partition=h200",
        "cluster.evaluate.partition=h200-preempt",
        "cluster.train.nodes=2",
        "cluster.train.tasks_per_node=4",
        "cluster.train.gpus=8",
    )
    assert done.returncode == 0, done.stderr
    found = scripts(done.stdout)
    assert {"baseline", "c01-train-1", "c01-evaluate-1", "leaderboard", "meta"} <= set(found)
    for name, part in found.items():
        path = tmp_path / "script.sh"
        path.write_text(submitted(part))
        answer = slurm.run(["sbatch", "--test-only", str(path)])
        assert answer.returncode == 0, f"{name}: {answer.stderr}"


def test_what_is_printed_is_what_is_submitted(slurm: Slurm, slurm_cli: Cli, tmp_path: Path) -> None:
    """For every job of a real round, in a folder whose name needs quotes."""
    slurm_cli.folder = tmp_path / 'a b\'s "q" $x; ü'
    slurm_cli.folder.mkdir()
    (slurm_cli.folder / "conf").symlink_to(REPO / "tests" / "conf")
    words = [
        word
        for word in slurm_cli.argv("campaign", "rounds=1", "worker.anchor_seeds=1", n=2)
        if not word.startswith("runs=")
    ]
    words += [
        quoted(slurm_cli.runs),
        "cluster.common.comment=\"it's 'ours'\"",
        "+cluster.train.environment.NOTE=\"a 'b' c\"",
        "cluster.train.setup=['export X=1']",
    ]
    dry = subprocess.run(
        [*words, "dry_run=true"], capture_output=True, text=True, cwd=slurm_cli.folder, timeout=200
    )
    assert dry.returncode == 0, dry.stderr
    assert not slurm_cli.runs.exists()
    real = subprocess.run(words, capture_output=True, text=True, cwd=slurm_cli.folder, timeout=200)
    assert real.returncode == 0, real.stdout + real.stderr
    printed = scripts(dry.stdout)
    layout = slurm_cli.layout()
    jobs = {path.parent.name: path.parent for path in layout.root.glob("**/jobs/*/spec.json")}
    assert set(jobs) == set(printed)
    for name, folder in jobs.items():
        sent = list(folder.glob("attempt_1/*_submission.sh"))
        assert len(sent) == 1, f"{name} was submitted {len(sent)} times"
        assert submitted(printed[name]) == sent[0].read_text(), name
        spec = read(JobSpec, JobFolder(folder).spec)
        runs = [shlex.join(argv(spec, step)) for step in spec.steps]
        if spec.kind in ("train", "worker", "collector", "meta") or name == "baseline":
            # what an evaluation takes is known when the checkpoints exist
            entry = [f"{spec.entry} {shlex.join(spec.arguments)}"] if spec.entry else []
            assert re.findall(r"^# runs: (.*)$", printed[name], re.M) == entry + runs
