"""`model.source`: the user's own data is split when a campaign starts, or stood in for and said."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aevo import sandbox
from aevo.errors import ConfigError, JobError
from aevo.files.documents import read
from aevo.files.paths import Layout
from aevo.jobs.foreground import run_here
from aevo.plan.cancel import cancel_all
from aevo.plan.setup import OpenCampaign
from aevo.records.campaign import Campaign
from aevo.records.inspection import Inspection
from aevo.records.job import JobSpec, Step
from aevo.records.leaderboard import Leaderboard
from aevo.records.manifest import Manifest
from aevo.start import items
from aevo.substrate.frozen import DEFAULT, open_substrate
from aevo.work.arguments import Shell
from aevo.work.shell import run_shell
from aevo.work.tools import Toolbox
from aevo.work.worker import open_broker
from tests.conftest import REGRESSION, REPO, SANDBOX
from tests.start.test_items import MODEL, configuration
from tests.support.challenge_support import rows, small, write_csv

pytestmark = pytest.mark.long(35)

SETTINGS = ("model.preset=challenge", "model.dev_items=18", "model.hidden_items=9")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A train.csv of 90 rows."""
    return write_csv(tmp_path_factory.mktemp("data") / "train.csv", rows(small(10)))


def prepared(root: Path, *overrides: str) -> str:
    return items.prepare(
        configuration(*SETTINGS, *overrides), Layout(root), open_substrate(DEFAULT)
    )


def test_an_absent_file_is_stood_in_for_and_said(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    said = prepared(tmp_path / "a", f"model.source={path}")
    assert said.startswith("generator, for ") and str(path) in said and "\n" not in said
    assert prepared(tmp_path / "b") == "generator"
    for name in ("dev_items", "hidden_items"):
        first, second = (getattr(Layout(tmp_path / name_), name) for name_ in "ab")
        assert first.read_bytes() == second.read_bytes()
    assert not Layout(tmp_path / "a").rows.exists()


def test_a_file_that_is_there_is_split_and_another_start_does_the_same(
    tmp_path: Path, source: Path
) -> None:
    layout = Layout(tmp_path)
    said = prepared(tmp_path, f"model.source={source}")
    assert "90 rows, 90 usable, split into 18 dev, 9 hidden, 63 train" in said
    paths = (layout.dev_items, layout.hidden_items, layout.rows / "train.jsonl")
    before = [path.read_bytes() for path in paths]
    assert layout.vault.stat().st_mode & 0o077 == 0
    assert prepared(tmp_path, f"model.source={source}") == said
    assert [path.read_bytes() for path in paths] == before
    # the start was interrupted and the file is gone: not a mixture of both
    assert prepared(tmp_path, "model.source=/no/where/train.csv").startswith("generator")
    assert not layout.source_report.exists() and layout.dev_items.read_bytes() != before[0]


def test_the_split_of_a_language_models_campaign_is_secret(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Step] = []

    def note(step: Step) -> None:
        steps.append(step)
        run_here(step)

    monkeypatch.setattr(items, "run_here", note)
    for name in "ab":
        prepared(tmp_path / name, f"model.source={source}", *MODEL)
    seed = Layout(tmp_path / "a").items_seed.read_text().strip()
    assert len(steps) == 2 and steps[0].env[items.VARIABLE] == seed
    assert not any(seed in word for word in steps[0].argv)
    assert len(seed) > 30 and Layout(tmp_path / "b").items_seed.read_text().strip() != seed
    first, second = (Layout(tmp_path / name).dev_items.read_bytes() for name in "ab")
    assert first != second


def test_what_cannot_be_split_is_one_line(tmp_path: Path, source: Path) -> None:
    with pytest.raises(JobError, match=r"model\.preset=challenge") as caught:
        prepared(tmp_path / "a", f"model.source={source}", "model.preset=tiny")
    assert "\n" not in str(caught.value)
    bad = tmp_path / "train.csv"
    bad.write_text("a,b\n1,2\n")
    with pytest.raises(JobError, match="has no column id, prompt, answer"):
        prepared(tmp_path / "a", f"model.source={bad}")
    with pytest.raises(ConfigError, match="no command `split`"):
        items.prepare(
            configuration(f"model.source={source}"),
            Layout(tmp_path / "b"),
            open_substrate(REGRESSION),
        )


@pytest.fixture(scope="module")
def layout(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    """A round of two candidates on the file, the second with real rows only."""
    folder = tmp_path_factory.mktemp("round")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "aevo.round",
            "+round=1",
            "worker.n=2",
            "worker.anchor_seeds=1",
            f"runs={folder}",
            f"cluster.slot_folder={folder / 'slots'}",
            *SETTINGS,
            *SANDBOX,
            f"model.source={source}",
            "policy.axes=[real_share]",
            "+model.recipe.train.steps=2",
            "+model.recipe.train.batch_size=4",
            "+model.recipe.train.checkpoints=1",
            "+model.recipe.data.examples=90",
            "+model.recipe.data.trace.style=short",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(REPO)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("data: ") == 1 and f"data: {source}: 90 rows" in done.stdout
    yield Layout(folder / "tiny-seed1")
    cancel_all(Layout(folder / "tiny-seed1"))


def test_a_whole_round_trains_on_real_rows_and_is_scored_on_others(
    layout: Layout, source: Path
) -> None:
    campaign = read(Campaign, layout.campaign)
    assert campaign.rows_path == str(layout.rows) and campaign.pins.rows
    assert campaign.data.startswith(str(source))
    files, held = layout.round(1), set()
    for path in (layout.dev_items, layout.hidden_items):
        held |= {json.loads(line)["prompt"] for line in path.read_text().splitlines()}
    assert len(held) == 27
    for name in ("c00", "c01"):
        manifest = read(Manifest, files.candidate(name).manifest)
        assert manifest.status == "ok", manifest.failure
        run = files.candidate(name).run(1)
        summary = json.loads((run.data / "data.json").read_text())
        assert any(source.startswith("real:") for source in summary["sources"])
        text = (run.data / "train.jsonl").read_text()
        assert not any(json.dumps(prompt)[1:-1] in text for prompt in held)
    mixed, real = (
        json.loads((files.candidate(name).run(1).data / "data.json").read_text())
        for name in ("c00", "c01")
    )
    assert sum(real["real_domains"].values()) > sum(mixed["real_domains"].values())
    found = read(Manifest, files.candidate("c01").manifest).change
    assert found.set == {"data.real.share": 1.0}
    board = read(Leaderboard, files.leaderboard)
    assert len(board.submissions) == 2


HOSTILE = {
    "csv": "cat {source}; head -c 99 {source}; python3 -c \"print(open('{source}').read())\"",
    "folder": "ls {folder}; cat {folder}/*; cp -r {folder} $TMPDIR/x && cat $TMPDIR/x/*",
    "vault": "cat {root}/vault/*; ls -R {root}/vault; cat {root}/source.json",
    "links": "ln -s {source} a; cat a; ln {source} b; cat b; ln -s {root}/vault c; cat c/*; rm a c",
    "search": "grep -rIsl 'In Alice' {root} {folder} /proc/*/environ --include=*.jsonl "
    "--include=*.csv --include=*.json",
    "split": "ITEMS_SEED=1 python3 -m eval.split --source {source} --preset challenge --dev 18 "
    "--hidden 9 --vault $TMPDIR/v --rows $TMPDIR/r --report $TMPDIR/s; cat $TMPDIR/v/*",
}


@pytest.mark.skipif(bool(SANDBOX), reason="nothing here confines a command")
@pytest.mark.parametrize("attack", sorted(HOSTILE))
def test_a_hostile_worker_sees_neither_the_file_nor_what_was_held_back(
    layout: Layout, source: Path, attack: str
) -> None:
    """Through the worker's own tools, in the round's own fork."""
    broker = open_broker(layout, 1, "c01")
    tools = Toolbox(broker.files.fork, broker.substrate, broker)
    command = HOSTILE[attack].format(source=source, folder=source.parent, root=layout.root)
    said = tools._run(Shell(command=command, timeout_s=60))
    held = [
        json.loads(line)
        for path in (layout.dev_items, layout.hidden_items)
        for line in path.read_text().splitlines()
    ]
    assert not [row for row in held if row["prompt"][-20:] in said or row["id"] in said], said
    assert "id,prompt,answer" not in said and "dev.jsonl" not in said
    if attack == "search":
        assert {line for line in said.splitlines() if line.endswith("train.jsonl")} == {
            f"{layout.rows}/train.jsonl"
        }, said


@pytest.mark.skipif(bool(SANDBOX), reason="nothing here confines a command")
def test_an_honest_worker_builds_its_data_and_the_file_is_hidden_wherever_it_lies(
    layout: Layout, source: Path
) -> None:
    from aevo.work.worker import check_command

    broker = open_broker(layout, 1, "c01")
    tools = Toolbox(broker.files.fork, broker.substrate, broker)
    said = tools._run(Shell(command=check_command(broker), timeout_s=60))
    assert said.startswith("exit code 0") and "real {" in said, said
    assert str(source) in broker.campaign.sealed
    spec: JobSpec = broker.train_spec(1)
    for step in spec.steps:
        assert step.confine is not None and str(source) in step.confine.hide
    data, train = (step.confine for step in spec.steps)
    assert data is not None and str(layout.rows) in data.read
    assert train is not None and str(layout.rows) not in train.read
    assert not any(str(layout.vault) in shlex.join(step.argv) for step in spec.steps)


def test_rows_that_were_tampered_with_stop_the_campaign(layout: Layout) -> None:
    from aevo.errors import SubstrateError
    from aevo.start.opening import verify

    campaign = OpenCampaign.read(layout)
    verify(campaign)
    path = layout.rows / "train.jsonl"
    before = path.read_text()
    try:
        path.write_text(before + "\n")
        with pytest.raises(SubstrateError, match="does not hold the rows"):
            verify(campaign)
    finally:
        path.write_text(before)


def test_the_overlap_check_looked_for_the_rows_that_were_held_back(layout: Layout) -> None:
    for name in ("c00", "c01"):
        found = read(Inspection, layout.round(1).candidate(name).run(1).inspection).overlap
        assert max(report.rows for report in found) > 50  # of train.jsonl
        assert all(report.items == 27 and report.complete and not report.found for report in found)


@pytest.mark.parametrize("kind", sandbox.offered())
def test_the_file_is_out_of_reach_in_a_folder_that_may_be_read(
    kind: sandbox.Kind, tmp_path: Path, source: Path
) -> None:
    """Named, by a link, as a hard link; beside it everything can be read."""
    folder, fork = tmp_path / "readable", tmp_path / "fork"
    folder.mkdir()
    fork.mkdir()
    path = folder / "train.csv"
    path.write_bytes(source.read_bytes())
    (folder / "beside").write_text("beside it")
    command = (
        f"cat {folder}/beside {path}; ln -s {path} a; cat a; ln {path} b; cat b; "
        f"cp {path} c; cat c; grep -rs Alice {folder}; rm -f a b c"
    )
    _, said, _ = run_shell(command, fork, [str(folder)], [str(path)], kind, 30)
    assert "beside it" in said and "Alice" not in said
    _, said, _ = run_shell(command, fork, [str(folder)], [], kind, 30)
    assert "Alice" in said, "else the attack above could not fail"
