"""`python -m aevo.trace show`: a trace as a person reads it, and as a hostile model wrote it."""

import json
from pathlib import Path

import pytest

from aevo.files.documents import append_line, write_json
from aevo.files.paths import Layout
from aevo.jobs.folder import JobFolder
from aevo.records.job import JobEnd, LedgerLine
from aevo.records.plan import Budget
from aevo.records.trace import ToolCall, Trace, Turn, Usage
from aevo.view.trace import clean, view
from aevo.work.budget import Meter
from aevo.work.cli.desk import OURS
from tests.conftest import Cli
from tests.work.test_cli_streams import FOLDER, OPENHANDS, SHELLS, turns_of

HOSTILE = "ok \x1b[2J\x1b]0;owned\x07\u202egnirts\r\x9b31m"


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    """A campaign with one candidate's trace and its training job."""
    layout = Layout(tmp_path / "camp")
    files = layout.round(1)
    trace = Trace(files.candidate("c01").trace)
    trace.note("start", attempt_pid=1)
    trace.message(Turn(role="system", content="\n".join(f"rule {i}" for i in range(30))))
    for name, arguments in (("train", {}), ("run", {"command": "echo " + HOSTILE})):
        call = ToolCall(id=f"id-{name}", name=name, arguments=arguments)
        trace.message(
            Turn(role="assistant", content=f"I call {name}", tool_calls=[call]),
            Usage(tokens_in=100, tokens_out=10, dollars=0.25),
        )
        if name == "train":
            trace.note("job", run=1, job="c01-train-1", seed=7)
        trace.message(Turn(role="tool", tool_call_id=call.id, content=HOSTILE))
    trace.note("note", retry="rate_limited", trial=1, wait_s=2.5, text="429")
    trace.note(
        "score",
        run=1,
        selected="step-2",
        scores={
            "step-1": {"dev": 0.5},
            "step-2": {"dev": 0.625},
            "step-3": {"error": "not finite"},
        },
    )
    trace.note("finish", status="ok", reason="finished")
    for name in ("c01-train-1", "c01-evaluate-1"):
        job = JobFolder(files.jobs / name)
        append_line(job.ledger, LedgerLine(event="intent", name=name, attempt=1, time=10.0))
        append_line(job.ledger, LedgerLine(event="started", name=name, attempt=1, time=14.0))
        write_json(job.end(1), JobEnd(name=name, attempt=1, exit_code=0, seconds=6.5, host="h"))
    return layout.root


def test_a_trace_reads_as_a_person_would(cli: Cli, campaign: Path) -> None:
    shown = cli.plain("trace", "show", str(campaign), "--round", "1", "--candidate", "c01")
    assert shown.returncode == 0, shown.stderr
    for text in (
        "rule 0",
        "… 27 more lines",
        "turn 2, 200 tokens in, 20 out so far, $0.5000",
        "train()",
        'run(command="echo ok',
        "-> train: ok",
        "job=c01-train-1, seed=7; attempt 1, waited 4.0 s, ran 6.5 s, ok",
        "retry 1 after rate_limited, waited 2.5 s: 429",
        "step-1 0.5000, step-2 0.6250 (selected), step-3 not finite; attempt 1",
        "finish: status=ok, reason=finished",
        "2 turns, 200 tokens in",
    ):
        assert text in shown.stdout, text
    assert "rule 29" not in shown.stdout
    direct = cli.plain("trace", "show", str(campaign / "round-01" / "c01"), "--full")
    assert "rule 29" in direct.stdout and "finish: status=ok" in direct.stdout


def test_a_cost_that_nobody_told_is_unknown_and_a_budget_ends_on_what_is_known(
    tmp_path: Path, cli: Cli
) -> None:
    trace = Trace(tmp_path / "c01" / "trace.jsonl")
    for dollars in (0.5, None):
        trace.message(Turn(role="assistant", content="a"), Usage(tokens_in=9, dollars=dollars))
    shown = cli.plain("trace", "show", str(tmp_path / "c01")).stdout
    assert "turn 1, 9 tokens in, 0 out so far, $0.5000" in shown
    assert "2 turns, 18 tokens in, 0 out so far, dollars unknown" in shown
    again = Trace(trace.path)
    assert again.usage() == Usage(tokens_in=18, dollars=None)
    spent = Budget(trainings=1, turns=9, wall_s=10**9, dollars=0.5)
    assert Meter(spent, again).spent() == "dollars"
    assert not Meter(spent.model_copy(update={"dollars": 0.6}), again).spent()


def said_by(kind: str) -> tuple[str, list[Turn]]:
    """The tool by which an agent changed its recipe, and its turns: those of others as recorded."""
    if kind in SHELLS:
        found = turns_of(kind, (FOLDER / f"{kind}.jsonl").read_bytes())  # type: ignore[arg-type]
        return SHELLS[kind], found
    name = {"rules": "write_file", "model": "run", "openhands": "own:terminal"}[kind]
    if kind == "openhands":
        return name, turns_of("openhands", OPENHANDS.encode())
    edit = ToolCall(id="call-1", name=name, arguments={"path": "recipe.yaml"})
    return name, [
        Turn(role="assistant", content="Step 0.", tool_calls=[edit]),
        Turn(role="tool", tool_call_id=edit.id, content="recipe.yaml written"),
    ]


@pytest.mark.parametrize("kind", [*SHELLS, "openhands", "model", "rules"])
def test_all_kinds_of_agents_read_alike(kind: str, tmp_path: Path) -> None:
    """A line for what it said, one for each call with its arguments, one for each result, what it
    cost at the end; the worker's own tools by their names, whoever calls them."""
    trace = Trace(tmp_path / "trace.jsonl")
    trace.note("start", attempt_pid=1, by=kind)
    edited, turns = said_by(kind)
    others = kind not in ("model", "rules")
    spent = Usage() if kind == "rules" else Usage(tokens_in=70, tokens_out=7, dollars=0.5)
    for turn in turns:
        trace.message(turn, None if others or turn.role == "tool" else spent)
    train = ToolCall(id=f"{OURS}1-1" if others else "call-2", name="train", arguments={})
    trace.message(Turn(role="assistant", content="", tool_calls=[train]))
    trace.message(Turn(role="tool", tool_call_id=train.id, content='{"run":1}'))
    if others:
        trace.spend(spent, model_call="chat/completions", seconds=0.1)
    trace.note("finish", status="ok", reason="finished")
    lines = [(line.kind, line.text) for line in view(trace.events, None, False)]
    texts = [text for _, text in lines]
    assert "Step 0." in texts
    calls = [text for kind, text in lines if kind == "call" and text.startswith(f"{edited}(")]
    assert calls and ("recipe.yaml" in calls[0] or kind == "openhands")
    assert any(text.startswith(f"-> {edited}:") for kind, text in lines if kind == "result")
    assert ("call", "train()") in lines and ("result", '-> train: {"run":1}') in lines
    assert not any("-> ?" in text or "model_call" in text for text in texts)
    cost = "0 tokens in, 0 out so far" if kind == "rules" else "70 tokens in, 7 out so far, $0.5000"
    assert texts[-1].endswith(cost)


def test_hostile_text_sends_nothing_to_the_terminal(cli: Cli, campaign: Path) -> None:
    for option in ([], ["--full"], ["--json"]):
        shown = cli.plain("trace", "show", str(campaign), "--candidate", "c01", *option)
        assert shown.returncode == 0, shown.stderr
        assert not set(shown.stdout) & set("\x1b\x07\r\x9b\u202e")
    assert clean(HOSTILE) == r"ok \x1b[2J\x1b]0;owned\x07\u202egnirts\r\x9b31m"
    assert clean("a\tb\r\nc\ud800") == "a    b\nc?"


def test_json_is_one_object_a_line(cli: Cli, campaign: Path) -> None:
    shown = cli.plain("trace", "show", str(campaign), "--candidate", "c01", "--json")
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert {"assistant", "call", "result", "job", "score", "note"} <= {row["kind"] for row in rows}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--candidate", "c99"], "candidates: c01"), (["--round", "7"], "rounds: 1"), ([], "c01")],
)
def test_an_unknown_candidate_is_one_line(
    cli: Cli, campaign: Path, arguments: list[str], said: str
) -> None:
    shown = cli.plain("trace", "show", str(campaign), *arguments)
    assert shown.returncode == 3 and not shown.stdout
    assert shown.stderr.startswith("error: ") and shown.stderr.count("\n") == 1
    assert said in shown.stderr
