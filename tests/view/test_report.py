"""The report, on synthetic campaigns written through the real records."""

import os
import random
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from aevo.errors import RecordError
from aevo.files.documents import Foreign, append_line, read, write_json, write_text, write_yaml
from aevo.files.paths import Layout, latest_campaign
from aevo.records.campaign import Campaign, Pins
from aevo.records.change import Change, Edit
from aevo.records.discovery import Discovery
from aevo.records.evidence import (
    Calibration,
    CandidateSummary,
    Comparison,
    Evidence,
    Patterns,
    Prose,
)
from aevo.records.leaderboard import Leaderboard, Submission
from aevo.records.manifest import Claims, Cost, Manifest, Selected, TrainingRun
from aevo.records.plan import Budget, CandidatePlan, Plan
from aevo.records.policy import (
    AxisBrief,
    DeadEnd,
    NoiseRule,
    Policy,
    Provenance,
    Selection,
    StandingChange,
    Trial,
)
from aevo.records.proposal import Proposal, Session
from aevo.records.scores import Prediction, Score, Scores
from aevo.view.report import write_report
from aevo.view.trajectory import read_trajectory
from tests.conftest import REPO


class _Item(Foreign):
    """A line of dev.jsonl, as far as the report reads it."""

    id: str
    meta: dict[str, str] = {}


DOMAINS = ["bits", "gravity", "unit", "numeral", "cipher", "equation"]
AXES = [
    ("learning_rate", "schedule"),
    ("warmup", "schedule"),
    ("mixture", "data"),
    ("trace_style", "data"),
    ("rank", "capacity"),
    ("loss_mask", "loss"),
    ("criterion", "checkpoint_selection"),
]
MODES = ["recipe_stabilisation", "stack_and_calibrate", "proxy_exploitation", "transfer"]
# (anchor dev, anchor LB, best's dev, best's LB): the shape of the paper's Table 2
SHAPE = [
    (0.412, 0.395, 0.484, 0.452),
    (0.481, 0.449, 0.522, 0.482),
    (0.520, 0.480, 0.631, 0.492),
    (0.523, 0.484, 0.574, 0.523),
]


def write_campaign(root: Path, rounds: int = 4, unfinished: bool = False) -> Layout:
    """A campaign of `rounds` finished rounds; `unfinished` plans one more."""
    layout = Layout(root)
    write_yaml(layout.campaign, _campaign(root.name))
    _write_policy(layout, 1)
    base = Score(dev=0.285, n=600, domains={})
    write_json(
        layout.baseline / "scores.json",
        Scores(items_sha256="d" * 64, base_sha256="b" * 64, scores={"base": base}),
    )
    for number in range(1, rounds + 1):
        _write_round(layout, number)
    if unfinished:
        _write_plan(layout, rounds + 1)
    return layout


def _campaign(name: str) -> Campaign:
    pins = Pins(substrate="a" * 64, constitution="c" * 64, base="b" * 64, dev_items="d" * 64)
    return Campaign(
        name=name,
        created="2026-08-01T09:00:00Z",
        pins=pins,
        substrate_path="substrate/default",
        constitution_path="conf/constitution.md",
        base_path="substrate/default/base/tiny",
        config={"seed": 7},
        versions={"python": "3.11.7", "aevo": "0.1.0"},
    )


def _briefs() -> list[AxisBrief]:
    return [AxisBrief(axis=a, category=c, brief="try it", reason="untried") for a, c in AXES]


def _write_plan(layout: Layout, number: int) -> None:
    briefs = [None, *_briefs()]
    candidates = [
        CandidatePlan(
            id=f"c{index:02d}",
            role="explorer" if brief else "anchor",
            axis=brief,
            seeds=[number * 100 + index],
            agent_seed=index,
        )
        for index, brief in enumerate(briefs)
    ]
    plan = Plan(
        round=number,
        campaign=layout.root.name,
        policy_sha256="p" * 64,
        substrate_sha256="a" * 64,
        standing_recipe_sha256="r" * 64,
        budget=Budget(trainings=2, turns=10, wall_s=600),
        candidates=candidates,
    )
    write_yaml(layout.round(number).plan, plan)


def _write_round(layout: Layout, number: int) -> None:
    _write_plan(layout, number)
    write_json(layout.round(number).candidate("c00").manifest, _manifest(layout, number))
    evidence, board = _evidence(layout.root.name, number)
    write_json(layout.round(number).evidence, evidence)
    write_json(layout.round(number).leaderboard, board)
    promoted = Provenance(round=number, candidate="c03", figure="LB +0.031")
    entries = [
        Discovery(
            id=f"{number}-p",
            round=number,
            kind="promotion",
            provenance=promoted,
            text="trace_style: short traces raise dev and LB",
        ),
        Discovery(
            id=f"{number}-d",
            round=number,
            kind="dead_end",
            provenance=promoted,
            text="rank 32 is within the noise band",
        ),
    ]
    if number > 1:
        text = f"Round {number}: early improvements stacked <b>but</b> noise | is large."
        entries.append(
            Discovery(
                id=f"{number}-s", round=number, kind="summary", text=text, provenance=promoted
            )
        )
    for entry in entries:
        append_line(layout.discoveries, entry)
    _write_policy(layout, number + 1)


def _manifest(layout: Layout, number: int) -> Manifest:
    run = TrainingRun(
        number=1,
        seed=7,
        status="ok",
        steps=200,
        final_loss=0.4,
        tokens=90_000,
        seconds=61.0,
        recipe_sha256="r" * 64,
        data_sha256=None,
        change=Change(),
        checkpoints=[],
    )
    return Manifest(
        campaign=layout.root.name,
        round=number,
        candidate="c00",
        role="anchor",
        axis=None,
        status="ok",
        change=Change(),
        recipe_sha256="r" * 64,
        substrate_sha256="a" * 64,
        runs=[run],
        selected=None,
        claims=Claims(),
        agent="scripted",
        cost=Cost(turns=3, training_s=61.0),
    )


def _evidence(name: str, number: int) -> tuple[Evidence, Leaderboard]:
    summaries = _summaries(number)
    submissions = [
        Submission(
            candidate=s.candidate,
            run=1,
            checkpoint="step-000200",
            dev=s.dev,
            score=s.lb,
            adapter_sha256="e" * 64,
        )
        for s in summaries
        if s.dev is not None
    ]
    lost = number == 3
    calibration = Calibration(
        pairs=[],
        seed_sd=0.008,
        seed_runs=3,
        seed_dof=2,
        dev_band=0.016,
        lb_noise=0.02,
        slope=0.4,
        slope_low=0.1,
        slope_high=0.7,
        rank_correlation=0.5,
        best_dev=0.6,
        best_lb=0.5,
        dev_gain_of_round=0.05,
        lb_gain_of_round=0.01,
        leverage={"equation": 0.3},
        plateau_rounds=0,
        verdict="not_evidence" if lost else "evidence",
        reason=(
            "c04 gained +0.111 dev and +0.002 LB"
            if lost
            else "gains on dev were confirmed by LB (slope 0.81 [0.52, 1.10])"
        ),
        text="…",
    )
    evidence = Evidence(
        campaign=name,
        round=number,
        mode=MODES[number - 1],
        policy_sha256="p" * 64,
        manifests={},
        submissions=submissions,
        candidates=summaries,
        calibration=calibration,
        surprises=[],
        audit=[],
        patterns=Patterns(gain_by_category={}, domain_movers={}, text="…"),
    )
    board = Leaderboard(
        kind="holdout",
        round=number,
        decimals=3,
        quota=40,
        quota_left=40 - 8 * number,
        submissions=submissions,
    )
    return evidence, board


def _summaries(number: int) -> list[CandidateSummary]:
    rng = random.Random(number)
    dev, lb, best_dev, best_lb = SHAPE[number - 1]
    found = [_summary("c00", None, dev, lb, None, rng)]
    for index, axis in enumerate(AXES, start=1):
        name = f"c{index:02d}"
        if index == 7 and number == 2:
            found.append(
                CandidateSummary(
                    candidate=name,
                    role="explorer",
                    axis=axis[0],
                    category=axis[1],
                    move=None,
                    change=Change(),
                    status="failed",
                    failure="diverged at step 40",
                    text="failed",
                )
            )
            continue
        gain = rng.gauss(0.005, 0.012)
        own = (best_dev, best_lb) if index == 3 else (dev + gain, round(lb + gain * 0.4, 3))
        if number == 3 and index == 4:
            own = (0.652, 0.487)
        found.append(_summary(name, axis, *own, dev, rng))
    return found


def _summary(
    name: str,
    axis: tuple[str, str] | None,
    dev: float,
    lb: float,
    anchor: float | None,
    rng: random.Random,
) -> CandidateSummary:
    gain = dev - (anchor or dev)
    comparison = Comparison(
        gain=gain,
        low=gain - 0.021,
        high=gain + 0.021,
        p=0.01,
        p_adjusted=0.07,
        n=600,
        won=60,
        lost=30,
        beyond_band=gain > 0.02,
        domains={},
    )
    domains = {
        d: min(1.0, max(0.0, dev + offset + rng.gauss(0, 0.03)))
        for d, offset in zip(DOMAINS, (-0.3, 0.1, -0.15, 0.35, 0.05, -0.05), strict=True)
    }
    return CandidateSummary(
        candidate=name,
        role="explorer" if axis else "anchor",
        axis=axis[0] if axis else None,
        category=axis[1] if axis else None,
        move="raise" if axis else None,
        change=Change(set={"train.learning_rate": 0.006}) if axis else Change(),
        status="ok",
        dev=dev,
        lb=lb,
        domains=domains,
        comparison=comparison if axis else None,
        text="…",
    )


def _write_policy(layout: Layout, number: int) -> None:
    origin = Provenance(round=max(number - 1, 1), figure="operator")
    standing, dead, tried = [], [], []
    for earlier in range(1, number):
        where = Provenance(round=earlier, candidate="c03", figure="LB +0.031")
        edit = Edit(file="data/build.py", find="</pre><script>", replace="FLIPS = False")
        change = Change(set={"data.trace.style": "short"}, edits=[edit])
        standing.append(
            StandingChange(id=f"s{earlier}", axis="trace_style", change=change, provenance=where)
        )
        dead.append(
            DeadEnd(
                id=f"d{earlier}",
                axis="rank",
                move=f"rank {2**earlier}",
                what="no gain beyond the band",
                provenance=where,
            )
        )
        tried.append(
            Trial(
                axis="rank",
                move="raise",
                round=earlier,
                candidate="c05",
                gain=0.001,
                outcome="dead_end",
                reason="within the band",
            )
        )
    noise = NoiseRule(promotion_threshold=0.02, lb_threshold=0.01, provenance=origin)
    policy = Policy(
        round=number,
        mode=MODES[min(number, 4) - 1],  # type: ignore[arg-type]
        mode_reason="Basic training levers come first.",
        objective="maximise_transfer" if number >= 4 else "maximise_dev",
        standing=standing,
        axes=_briefs(),
        noise=noise,
        selection=Selection(provenance=origin),
        dont_waste_budget_on=dead,
        tried=tried,
        provenance=[origin],
    )
    write_yaml(layout.policy(number), policy)


class Page(HTMLParser):
    """Collects tags and what they refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [v or "" for k, v in attrs if k in {"src", "href", "srcset", "data"}]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished campaign of four rounds with its report written."""
    root = tmp_path_factory.mktemp("runs with space") / "demo"
    write_campaign(root)
    write_report(root)
    return root


def test_writes_table_figures_and_page(finished: Path) -> None:
    names = {path.name for path in (finished / "report").iterdir()}
    assert names == {"report.md", "index.html", "lb_by_round.png", "dev_vs_lb.png", "domains.png"}
    for path in (finished / "report").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG\r\n")
    text = (finished / "report" / "report.md").read_text()
    rows = re.findall(r"^\| (\d) \| ([^|]+) \| ([\d.–]+) \| ([\d.–]+) \|", text, re.MULTILINE)
    assert rows == [
        ("0", "Substrate", "0.412", "0.395"),
        ("1", "Recipe stabilisation", "0.484", "0.452"),
        ("2", "Stack-and-calibrate", "0.522", "0.482"),
        ("3", "Proxy exploitation", "0.631", "0.492"),
        ("4", "Proxy-aware search", "0.574", "0.523"),
    ]
    assert "bare base checkpoint: dev 0.285" in text
    assert "highest dev of the round: 0.652 (c04)" in text
    assert "[+0.051, +0.093]" in text


def test_page_is_self_contained(finished: Path) -> None:
    page = Page((finished / "report" / "index.html").read_text())
    assert len(page.sources) == 6, "three figures, light and dark"
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not {"script", "link", "iframe"} & set(page.tags)


def test_agent_text_cannot_inject_markup(finished: Path) -> None:
    page = (finished / "report" / "index.html").read_text()
    assert "<b>but</b>" not in page and "&lt;b&gt;but&lt;/b&gt;" in page
    assert "- &lt;/pre&gt;&lt;script&gt;" in page, "edits are shown, as text"
    text = (finished / "report" / "report.md").read_text()
    assert "<b>" not in text and "noise \\| is large" in text


def test_lesson_comes_from_the_log_else_from_discoveries(finished: Path) -> None:
    first, second = read_trajectory(finished).rounds[:2]
    assert first.learned.startswith("trace_style: short traces raise dev and LB. rank 32")
    assert second.learned.startswith("Round 2: early improvements stacked")
    assert second.learned.endswith(
        "Promoted: data.trace.style=short; data/build.py edited (LB +0.031)."
    )


def test_best_is_by_leaderboard_and_promotion_by_policy(finished: Path) -> None:
    third = read_trajectory(finished).rounds[2]
    assert third.best is not None and third.best.candidate == "c03"
    assert third.best_dev is not None and third.best_dev.candidate == "c04"
    assert third.fate("c03") == "promoted" and third.fate("c05") == "dead end"


def test_costs_are_summed_over_manifests(finished: Path) -> None:
    spent = read_trajectory(finished).spent
    assert (spent.candidates, spent.trainings, spent.turns) == (4, 4, 12)
    assert spent.training_s == pytest.approx(244.0)


@pytest.mark.long(2)
def test_costs_of_collector_and_meta_stand_apart(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "campaign"
    shutil.copytree(finished, root)
    files = Layout(root).round(1)
    cost = Cost(turns=1, tokens_in=900, tokens_out=100, dollars=0.25)
    evidence = read(Evidence, files.evidence)
    prose = Prose(author="m", sections={}, refusals=0, cost=cost)
    write_json(files.evidence, evidence.model_copy(update={"prose": prose}))
    write_json(
        files.meta / "session.json",
        Session(author="m", model="m", refusals=0, reason=None, cost=cost),
    )
    spent, before = read_trajectory(root).spent, read_trajectory(finished).spent
    assert (spent.control_tokens, spent.control_dollars) == (2000, 0.5)
    assert (spent.tokens, spent.dollars) == (before.tokens, before.dollars)
    write_report(root)
    assert "collector and meta: 2000 tokens, $0.50" in (root / "report/report.md").read_text()
    assert "2000 tokens of collector and meta" in (root / "report/index.html").read_text()
    unknown = cost.model_copy(update={"dollars": None})
    write_json(
        files.meta / "session.json",
        Session(author="m", model="m", refusals=0, reason=None, cost=unknown),
    )
    write_report(root)
    assert "collector and meta: 2000 tokens, $ unknown" in (root / "report/report.md").read_text()
    assert "$ unknown</b><span>for 2000 tokens" in (root / "report/index.html").read_text()
    assert "collector and meta:" not in (finished / "report/report.md").read_text()


def test_a_change_of_code_is_shown_with_its_words_and_curves(
    finished: Path, tmp_path: Path
) -> None:
    """Of each explorer: title, summary, lines, learning curves; and who stood in for the model."""
    root = tmp_path / "campaign"
    shutil.copytree(finished, root)
    layout = Layout(root)
    files = layout.round(1)
    evidence = read(Evidence, files.evidence)
    edit = Edit(file="train/loop.py", find="a\nlr = 1\n", replace="a\nlr = 2\n")
    words = {"title": "twice the <rate>", "said": "I doubled it.", "change": Change(edits=[edit])}
    found = [
        item.model_copy(update=words if item.candidate == "c03" else {})
        for item in evidence.candidates
    ]
    write_json(files.evidence, evidence.model_copy(update={"candidates": found}))
    manifest = read(Manifest, files.candidate("c00").manifest)
    for name in ("c02", "c03"):
        own = {"candidate": name, "role": "explorer"}
        write_json(files.candidate(name).manifest, manifest.model_copy(update=own))
        metrics = files.candidate(name).run(1).metrics
        metrics.parent.mkdir(parents=True)
        metrics.write_text('{"step": 1, "loss": 0.75}\n{"step": 2, "loss": 0.5}\n')
    stood_in = "rules, because the model's proposal was refused 3 times"
    proposal = Proposal(author=stood_in, policy=read(Policy, layout.policy(2)), discoveries=[])
    write_json(files.meta / "proposal.json", proposal)
    write_report(root)
    text = (root / "report" / "report.md").read_text()
    page = (root / "report" / "index.html").read_text()
    assert "c03 (twice the" in text and ": I doubled it." in text
    assert "    - lr = 1\n    + lr = 2\n" in text
    assert text.count("    step 1, loss 0.75\n    step 2, loss 0.5\n") == 2
    assert "c03: twice the &lt;rate&gt;</summary>" in page and "I doubled it." in page
    assert page.count("step 1, loss 0.75\nstep 2, loss 0.5") == 2
    assert "- lr = 1</span>" in page and "+ lr = 2</span>" in page
    for shown in (text, page):
        assert "was refused 3 times" in shown


def test_sub_domains_of_the_items_are_told_where_they_have_any(tmp_path: Path) -> None:
    """Of the anchor and of the best; a campaign whose items have none, shows none."""
    layout = write_campaign(tmp_path / "c", rounds=1)
    assert "Sub-domain" not in write_report(layout.root).with_name("report.md").read_text()
    items = [{"id": str(n), "meta": {"subdomain": ("guess", "deduce|x")[n % 2]}} for n in range(8)]
    for item in [*items, {"id": "8", "domain": "bits"}]:
        append_line(layout.dev_items, _Item.model_validate(item))
    best = read_trajectory(layout.root).rounds[0].best
    assert best is not None
    for name, right in (("c00", {"0", "1"}), (best.candidate, {"0", "2", "4", "6", "8"})):
        here = layout.round(1).candidate(name)
        chosen = Selected(
            run=1, checkpoint="s", criterion="dev", dev=0.2, domains={}, adapter_sha256="e" * 64
        )
        update = {"candidate": name, "selected": chosen}
        write_json(here.manifest, _manifest(layout, 1).model_copy(update=update))
        for number in range(9):
            answer = Prediction(
                id=str(number), domain="d", output="", answer_given="", correct=str(number) in right
            )
            append_line(here.run(1).predictions("s"), answer)
    text = write_report(layout.root).with_name("report.md").read_text()
    assert "| guess | 4 | 0.250 | 1.000 |\n" in text
    assert "| deduce\\|x | 4 | 0.250 | 0.000 |\n" in text


def test_same_records_same_report(finished: Path, tmp_path: Path) -> None:
    write_report(finished, tmp_path / "again")
    for path in (finished / "report").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_unfinished_campaign_says_what_is_missing(tmp_path: Path) -> None:
    layout = write_campaign(tmp_path / "open", rounds=1, unfinished=True)
    page = write_report(layout.root).read_text()
    assert "1 of 2" in page and "0 of 8 candidates have ended" in page
    layout.policy(2).unlink()
    layout.round(2).plan.unlink()
    text = (write_report(layout.root).parent / "report.md").read_text()
    assert "no policy for round 2 yet" in text and "not decided yet" in text


def test_campaign_without_any_round(tmp_path: Path) -> None:
    layout = write_campaign(tmp_path / "fresh", rounds=0)
    page = write_report(layout.root)
    assert {p.name for p in page.parent.iterdir()} == {"report.md", "index.html"}
    assert "Nothing has been scored yet" in (page.parent / "report.md").read_text()


def test_latest_campaign_is_the_one_whose_records_changed_last(tmp_path: Path) -> None:
    older, newer = (write_campaign(tmp_path / name, rounds=1) for name in ("older", "newer"))
    for path in newer.root.rglob("*"):
        os.utime(path, (1e9, 1e9))
    for path in older.root.rglob("*"):
        os.utime(path, (5e8, 5e8))
    assert latest_campaign(tmp_path) == newer.root
    os.utime(older.round(1).evidence, (2e9, 2e9))
    assert latest_campaign(tmp_path) == older.root


def test_command_line(finished: Path, tmp_path: Path) -> None:
    result = _report(finished.parent, str(finished), "--out", str(tmp_path / "out"))
    assert result.returncode == 0, result.stderr
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert all(path.is_file() for path in paths) and paths[-1].name == "index.html"


@pytest.mark.parametrize("spoil", ["no campaign", "corrupt evidence"])
def test_mistakes_are_one_line(tmp_path: Path, spoil: str) -> None:
    root = tmp_path / "runs" / "x"
    if spoil == "corrupt evidence":
        layout = write_campaign(root, rounds=1)
        write_text(layout.round(1).evidence, '{"schema_version": 1}')
    result = _report(tmp_path)
    assert result.returncode == RecordError.code
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert ("evidence.json" in result.stderr) == (spoil == "corrupt evidence")


def _report(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aevo.report", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )
