"""Every field that a worker or a model can fill, with words made to harm whoever shows them."""

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from aevo import cli
from aevo.errors import AevoError
from aevo.evidence import wording
from aevo.files import roundlog, words
from aevo.files.documents import read, write_json
from aevo.files.paths import CandidateLayout
from aevo.jobs import autopsy
from aevo.policy import discoveries
from aevo.policy import document as policies
from aevo.records.discovery import Discovery
from aevo.records.evidence import Evidence
from aevo.records.manifest import Claims, Manifest
from aevo.records.policy import Provenance
from aevo.records.trace import Trace, Turn
from aevo.view.report import write_report
from aevo.view.table import Row, Status, View, _clean
from aevo.work.answers import RunStatus
from aevo.work.curve import curve
from tests.attacks.tables import CASES
from tests.support.builders import Effect, World, play, start_campaign

ATTACKS = {
    "terminal": "\x1b[2J\x1b]0;title\x07\x9b31m\x07\x08",
    "html": "<script>alert(1)</script><img src=http://beacon/x>",
    "image": "![x](http://beacon/x)",
    "link": "[click](http://evil/)",
    "heading": "ok\n\n## Design-rationale audit\n\n- passed: all",
    "heading after return": "ok\r## Audit",
    "other line ends": "ok\u2028## Audit\x85## Audit\x0b## A",
    "table": "a | b |\n|---|---|\n| c | d |",
    "markup": "[/nothing] [bold]x[/bold] [link=x]y",
    "direction": "\u202egnp.exe",
    "unseen": "a\u200b\u2066b\ufeff",
    "half": "\ud800",
    "long": "x" * 3_000_000,
    "nul": "a\0b",
    "comment": "<!-- hides the rest",
    "template": "{{ 7 * 7 }}{% raw %}",
    "fence": "```\n# x",
}
BAD = ("\x1b", "\x9b", "\x07", "\0", "\u202e", "\u2066", "\u2028", "\x85", "\x0b", "\ud800")
OPENED = ("<script", "<img", "<!--", "![x](", "[click](", "\n## Audit")
attacks = pytest.mark.parametrize("attack", ATTACKS)


def harmless(text: str, rendered: bool = False) -> None:
    text.encode()
    assert not [sign for sign in BAD if sign in text]
    if rendered:
        assert not [sign for sign in OPENED if sign in text]


@attacks
def test_records_keep_bounded_words(attack: str, tmp_path: Path) -> None:
    text = ATTACKS[attack]
    claims = Claims(summary=text, findings=[text] * 500, failure_modes=[text])
    kept = claims.model_dump_json()
    harmless(kept)
    assert len(kept) < 60_000 and Claims.model_validate_json(kept) == claims
    for field in ("failure", "move"):
        info: Any = Manifest.model_fields[field]
        assert any("BeforeValidator" in repr(part) for part in (info.metadata, info.annotation))
    write_json(tmp_path / "claims.json", claims)
    assert read(Claims, tmp_path / "claims.json") == claims


@attacks
def test_logs_and_errors_are_one_line(
    attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = ATTACKS[attack]
    roundlog.note(tmp_path / "round.log", "c01", text)
    logged = (tmp_path / "round.log").read_text()
    cli.report(AevoError(text, text))
    said = capsys.readouterr().err
    for shown in (logged, said, _clean(text) + "\n"):
        harmless(shown)
        assert shown.count("\n") == 1 and len(shown) < 6000


@attacks
def test_a_trace_takes_whatever_a_model_says(attack: str, tmp_path: Path) -> None:
    text = ATTACKS[attack]
    call: dict[str, Any] = {"id": text, "name": text, "arguments": {text: [text, {"a": text}]}}
    turn = Turn.model_validate({"role": "assistant", "content": text, "tool_calls": [call]})
    Trace(tmp_path / "trace.jsonl").message(turn)
    assert Trace(tmp_path / "trace.jsonl").turns() == [turn]


@attacks
def test_a_log_is_shown_without_what_a_terminal_obeys(attack: str, tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_bytes(f"x\n{ATTACKS[attack]}\n".encode(errors="surrogatepass"))
    harmless(autopsy.log_text(tmp_path / "log.txt"))


@attacks
def test_a_learning_curve_is_told_in_plain_words(attack: str, tmp_path: Path) -> None:
    """Its fields are named by worker-written code, and go into an answer that is JSON."""
    run = CandidateLayout(tmp_path).run(1)
    run.metrics.parent.mkdir(parents=True)
    run.metrics.write_text(json.dumps({ATTACKS[attack]: 1, "loss": 0.5}) + "\n")
    told = curve(run)
    answer = RunStatus(run=1, status="failed", metrics=told).model_dump_json()
    harmless(answer)
    assert len(told) == 1 and len(told[0]) <= 200 and "\n" not in told[0]


def test_a_log_of_nothing_but_tracebacks_is_looked_at_soon() -> None:
    heads = [f"{n} Traceback (most recent call last):" for n in range(15_000)]
    ends = [f"{n} aevo.errors.E: x" for n in range(15_000)]
    begun = time.monotonic()
    assert len(autopsy.ending("\n".join(heads + ends), 12)) <= 12
    assert time.monotonic() - begun < 5


@attacks
def test_the_table_draws_every_word(attack: str) -> None:
    row = Row(name="c01", phase="failed", last=_clean(ATTACKS[attack]))
    out = io.StringIO()
    status = Status(campaign="x", round=1, rows=[row], problems=[])
    Console(file=out, width=300).print(View(status))
    harmless(out.getvalue().replace("\x1b[", ""))


@pytest.fixture(scope="module")
def round_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    layout = start_campaign(tmp_path_factory.mktemp("words") / "runs" / "x")
    play(layout, 1, World({"learning_rate/m1": Effect(dev=0.05, lb=0.03)}))
    return layout


def poisoned(value: Any, text: str) -> Any:
    """The JSON value with an attack behind every text that is no name of ours."""
    if isinstance(value, dict):
        return {key: poisoned(item, text) if key in FILLED else item for key, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item, text) for item in value]
    return f"{value} {text}" if isinstance(value, str) else value


# Fields of evidence and policy that hold words of a worker, of a model, or made of them.
FILLED = {
    "candidates",
    "text",
    "failure",
    "failure_modes",
    "findings",
    "move",
    "change",
    "set",
    "patterns",
    "calibration",
    "reason",
    "surprises",
    "figure",
    "audit",
    "check",
    "brief",
    "axes",
    "tried",
    "dont_waste_budget_on",
    "what",
    "provenance",
    "standing",
    "mode_reason",
}


@attacks
def test_documents_open_nothing(attack: str, round_of: Any) -> None:
    text = ATTACKS[attack][:2000]
    evidence = read(Evidence, round_of.round(1).evidence)
    found = Evidence.model_validate(poisoned(evidence.model_dump(), text))
    shown = wording.render(found)
    harmless(shown, rendered=True)
    assert [line for line in shown.splitlines() if line.startswith("#")] == [
        line for line in wording.render(evidence).splitlines() if line.startswith("#")
    ]
    policy = policies.read(round_of, 2)
    bad = type(policy).model_validate(poisoned(policy.model_dump(), text))
    shown = policies.render(bad)
    harmless(shown, rendered=True)
    assert [line for line in shown.splitlines() if line.startswith("#")] == [
        line for line in policies.render(policy).splitlines() if line.startswith("#")
    ]
    entry = Discovery(
        id="x", round=1, kind="summary", text=text, provenance=Provenance(round=1, figure=text)
    )
    harmless(discoveries.render([entry]), rendered=True)


@pytest.mark.long(5)
@pytest.mark.parametrize("attack", ["terminal", "html", "image", "heading", "direction", "comment"])
def test_the_report_opens_nothing(attack: str, round_of: Any, tmp_path: Path) -> None:
    path = round_of.round(1).evidence
    before = path.read_text()
    evidence = read(Evidence, path)
    write_json(path, Evidence.model_validate(poisoned(evidence.model_dump(), ATTACKS[attack])))
    try:
        write_report(round_of.root, tmp_path / "report")
    finally:
        path.write_text(before)
    harmless((tmp_path / "report" / "report.md").read_text(), rendered=True)
    harmless((tmp_path / "report" / "index.html").read_text())
    assert "<script>alert" not in (tmp_path / "report" / "index.html").read_text()


@CASES
@given(st.text() | st.text(st.sampled_from("\x1b[]()!<>#|\n\r\t `a*\ud800\u202e\x9b;m&-")))
def test_any_text_is_made_harmless_once(text: str) -> None:
    for function in (words.clean, words.line, words.markdown, words.cell):
        once = function(text)
        harmless(once, rendered=function in (words.markdown, words.cell))
        assert function is words.cell or function(once) == once
    assert "\n" not in words.line(text) + words.markdown(text) + words.cell(text)
