"""Mistakes that were silent: each is refused, or ends its command with the cause."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from aevo.errors import ConfigError, JobError, SubstrateError
from aevo.evaluate.contract import check_baseline, check_predictions
from aevo.evaluate.untrusted import IntegrityError
from aevo.files.documents import read, write_json
from aevo.files.paths import Layout
from aevo.jobs import local
from aevo.plan.candidates import nothing_measured
from aevo.records.evidence import Evidence
from aevo.records.inspection import Inspection
from aevo.records.scores import Score, Scores
from aevo.records.trace import Trace, Turn
from aevo.start.privacy import close_to_others
from aevo.substrate.frozen import open_substrate
from aevo.view.failures import refusals
from aevo.view.outcome import check_measured
from tests.conftest import REGRESSION, Cli
from tests.support.builders import World, play, start_campaign

ROWS = [
    {"id": str(i), "domain": "d", "output": "", "answer_given": "", "correct": i < 3}
    for i in range(4)
]
BROKEN: dict[str, tuple[float, list[Any] | None]] = {
    "partial credit": (0.9, ROWS),
    "no predictions": (0.75, None),
    "none in them": (0.75, []),
    "an id twice": (0.75, [*ROWS, ROWS[0]]),
    "one missing": (0.75, ROWS[:3]),
    "a field missing": (0.75, [{"id": "1"}]),
    "no object": (0.75, [1]),
    "credit in correct": (0.75, [ROWS[0] | {"correct": 0.5}]),
}


def evaluation(folder: Path, dev: float, rows: list[Any] | None) -> Scores:
    folder.mkdir(parents=True, exist_ok=True)
    if rows is not None:
        (folder / "base.predictions.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )
    scores = Scores(items_sha256="i", base_sha256="b", scores={"base": Score(dev=dev)})
    write_json(folder / "scores.json", scores)
    return scores


@pytest.mark.parametrize("how", BROKEN)
def test_scores_that_break_the_contract(how: str, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    check_baseline(layout)
    with pytest.raises(IntegrityError):
        check_predictions(evaluation(layout.baseline, *BROKEN[how]), layout.baseline)
    with pytest.raises(JobError, match="baseline"):
        check_baseline(layout)
    evaluation(layout.baseline, 0.75, ROWS)
    check_baseline(layout)


def test_a_round_of_failures_is_one(tmp_path: Path) -> None:
    layout = start_campaign(tmp_path / "runs" / "x")
    play(layout, 1, World({}))
    check_measured(layout, 1)
    path = layout.round(1).evidence
    evidence = read(Evidence, path)
    failed = [
        item.model_copy(update={"status": "failed", "failure": "no weights"})
        for item in evidence.candidates
    ]
    write_json(path, evidence.model_copy(update={"candidates": failed}))
    with pytest.raises(JobError, match="every candidate of round 1 failed; c00: no weights"):
        check_measured(layout, 1)


def test_refusals_are_told(tmp_path: Path) -> None:
    here = Layout(tmp_path).round(1).candidate("c01")
    write_json(
        here.run(1).inspection,
        Inspection(run=1, result=None, failure="a link", refused={"step-1": "NaN\x1b[2J"}),
    )
    Trace(here.trace).message(Turn(role="tool", content="error: no", tool_call_id="1"))
    assert [item.text for item in refusals(Layout(tmp_path))] == [
        "run 1 does not count: a link",
        "run 1: checkpoint step-1 was refused: NaN",
        "error: no",
    ]
    assert refusals(Layout(tmp_path), 2) == []


@pytest.mark.parametrize("word", ["{}", "{0}", "{x", "}", "{a.b}", "{unknown}", "{a!z}"])
def test_a_placeholder_that_is_none_is_named(word: str, tmp_path: Path) -> None:
    file = yaml.safe_load((REGRESSION / "substrate.yaml").read_text())
    file["commands"]["train"]["argv"].append(word)
    (tmp_path / "substrate.yaml").write_text(yaml.safe_dump(file))
    with pytest.raises(SubstrateError, match="unknown"):
        open_substrate(tmp_path).command("train", tmp_path, data="d", seed=1, out="o", a="s")


@pytest.mark.parametrize("mask", [0, 0o022, 0o777])
def test_a_campaign_is_closed_to_others(
    mask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(mask)
    try:
        close_to_others(tmp_path / "x" if mask != 0o777 else tmp_path)
        (tmp_path / "file").write_text("")
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
        folder = tmp_path / "x" if mask != 0o777 else tmp_path
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        monkeypatch.setenv("AEVO_GROUP", "no such group")
        with pytest.raises(ConfigError):
            close_to_others(folder)
    finally:
        os.umask(before)


def test_slots_are_in_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = local._own_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rmdir()
    (tmp_path / "other").mkdir()
    folder.symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError):
        local._own_folder()


@pytest.mark.long(5)
def test_a_command_whose_every_candidate_fails_is_not_zero(cli: Cli) -> None:
    """A stack whose evaluation gives partial credit: the baseline says so before most is spent."""
    import shutil

    shutil.copytree(REGRESSION, cli.folder / "substrate")
    score = cli.folder / "substrate" / "eval" / "score.py"
    score.write_text(score.read_text().replace('return {"dev": ', 'return {"dev": 0.001 + '))
    open_substrate(cli.folder / "substrate").freeze()
    done = cli.run("campaign", "rounds=2", n=2)
    assert done.returncode != 0
    assert "partial credit" in done.stderr.strip().splitlines()[-1]
    assert not cli.layout().round(2).root.exists()


def test_no_round_is_planned_after_one_that_measured_nothing(tmp_path: Path) -> None:
    layout = start_campaign(tmp_path / "camp")
    evidence = play(layout, 1, World({}))
    assert nothing_measured(layout, 1) is None and nothing_measured(layout, 2) is None
    failed = [
        item.model_copy(update={"status": "failed", "failure": "no weights"})
        for item in evidence.candidates
    ]
    path = layout.round(1).evidence
    write_json(path, evidence.model_copy(update={"candidates": failed}))
    assert nothing_measured(layout, 1) == "every candidate of round 1 failed; c00: no weights"
