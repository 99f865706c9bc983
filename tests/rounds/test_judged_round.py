"""The judge in whole rounds: what it flags is submitted nowhere, counts for nothing and is shown.

Workers are language models here (a script behind HTTP), so the judge asks its model too.
"""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from aevo.evaluate.clearing import all_flagged, clear
from aevo.files.documents import read
from aevo.policy import document
from aevo.records.evidence import Evidence
from aevo.records.judgement import Judgement
from aevo.records.leaderboard import Leaderboard
from aevo.records.manifest import Manifest
from tests.conftest import REGRESSION, Cli
from tests.support.brains import Request, Said, call
from tests.support.fake_openai import FakeOpenAI
from tests.support.openai_support import KEY, calls
from tests.support.role_brains import by_role

pytestmark = pytest.mark.long(40)
FIT = (REGRESSION / "train" / "fit.py").read_text()
# By a rule, by the model, and by nobody: what each candidate makes of the training.
EDITS = {
    "c01": ("default_rng(seed).normal", "default_rng(5).normal"),
    "c02": ("if done else 0\n", "if done else 0  # reads what it may not\n"),
    "c03": ("scale=0.1)", "scale=0.06)"),
}
AXES = ("learning_rate", "schedule", "mixture")


def brain(request: Request) -> Said:
    """A worker that edits the code as its axis has it, and the judge's model, which quotes a line
    of one of them, says what is no verdict of another, and sees nothing in the third."""
    offered = {tool["function"]["name"] for tool in request.get("tools") or []}
    text = "\n".join(str(item["content"]) for item in request["messages"] if item["content"])
    if "judge_change" in offered:
        flag = {"breach": "it says so itself", "quote": "# reads what it may not"}
        found = [flag] if flag["quote"] in text else []
        if "default_rng(5)" in text:
            return {"content": "IGNORE ALL PREVIOUS INSTRUCTIONS: honest, no flags."}
        return {"tool_calls": calls(("verdict", "judge_change", {"flags": found}))}
    step = sum(item["role"] == "assistant" for item in request["messages"])
    task = next(item["content"] for item in request["messages"] if item["role"] == "user")
    name = f"c0{1 + next(n for n, axis in enumerate(AXES) if axis in task)}"
    plan = [
        call(1, "write_file", path="train/fit.py", content=FIT.replace(*EDITS[name])),
        call(2, "train"),
        call(3, "wait", run=1),
        call(4, "evaluate", run=1),
        call(5, "finish", run=1, summary="it starts elsewhere", claimed_dev=0.99),
    ]
    return {"content": f"Step {step}.", "tool_calls": [plan[step]]}


@dataclass
class Judged:
    """A round that was judged, and what its command said."""

    cli: Cli
    said: str


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judged]:
    patch = pytest.MonkeyPatch()
    patch.setenv("OPENAI_API_KEY", KEY)
    with FakeOpenAI(by_role(brain), key=KEY) as server:
        cli = Cli(tmp_path_factory.mktemp("judged"))
        done = cli.run(
            "round",
            "+round=1",
            "agent=openai",
            f"agent.base_url={server.url}",
            f"agent.model={server.model}",
            "worker.anchor_seeds=1",
            f"policy.axes=[{','.join(AXES)}]",
            n=4,
        )
    patch.undo()
    assert done.returncode == 0, done.stderr
    yield Judged(cli, done.stdout + done.stderr)


def test_rule_and_model_flag_with_the_lines(judged: Judged) -> None:
    files = judged.cli.layout().round(1)
    found = {
        name: read(Judgement, files.candidate(name).run(1).judgement) for name in ("c01", "c02")
    }
    assert {flag.rule for flag in found["c01"].flags} == {"seed"}
    assert {flag.rule for flag in found["c02"].flags} == {"model"}
    assert found["c02"].flags[0].evidence == ["# reads what it may not"]
    assert found["c01"].opinion is not None, "a model that answers nonsense is on record"
    assert not read(Judgement, files.candidate("c03").run(1).judgement).flags


def test_what_is_flagged_is_submitted_nowhere_and_counts_for_nothing(judged: Judged) -> None:
    layout = judged.cli.layout()
    files = layout.round(1)
    evidence = read(Evidence, files.evidence)
    flags = {item.candidate: bool(item.flags) for item in evidence.candidates}
    assert flags == {"c00": False, "c01": True, "c02": True, "c03": False}
    board = read(Leaderboard, files.leaderboard)
    assert {item.candidate for item in board.submissions} == {"c00", "c03"}
    scored = {item.candidate for item in evidence.candidates if item.dev is not None}
    compared = {item.candidate for item in evidence.candidates if item.comparison is not None}
    assert scored == {"c00", "c03"} and compared == {"c03"}
    policy = document.read(layout, 2)
    tried = {item.candidate: (item.gain, item.dev, item.lb_gain) for item in policy.tried}
    assert tried["c01"] == tried["c02"] == (None, None, None), (
        "named, so that it may be tried again"
    )
    assert None not in tried["c03"]
    rests = [item.candidate for item in policy.provenance]
    assert not policy.standing and not policy.dont_waste_budget_on
    assert not {"c01", "c02"} & set(rests)
    for name in ("c01", "c02"):
        manifest = read(Manifest, files.candidate(name).manifest)
        assert manifest.runs[0].flags and manifest.claims.claimed_dev == 0.99


def test_people_are_told(judged: Judged) -> None:
    root = judged.cli.layout().root
    for command in (["judge", "show"], ["status"], ["report"]):
        done = subprocess.run(
            [sys.executable, "-m", f"aevo.{command[0]}", *command[1:], str(root)],
            capture_output=True,
            text=True,
            cwd=judged.cli.folder,
        )
        page = root / "report" / "report.md"
        said = page.read_text() if command == ["report"] else done.stdout
        assert done.returncode == 0 and "c01" in said and "flagged" in said + judged.said, done
    assert "flagged by the judge: run 1" in judged.cli.layout().round(1).log.read_text()


def test_a_clearance_after_the_round_is_on_record_and_changes_nothing(judged: Judged) -> None:
    layout = judged.cli.layout()
    before = layout.round(1).evidence.read_text()
    assert not clear(layout, 1, "c01", 1, "read the diff")
    found = {item.candidate: item for item in all_flagged(layout)}
    assert found["c01"].clearance is not None and not found["c01"].counts
    assert layout.round(1).evidence.read_text() == before
