"""The meta step's language model over real HTTP: proposals, refusals, failures, kills."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aevo.evidence import collector
from aevo.files.documents import read, read_lines, write_json
from aevo.files.paths import Layout
from aevo.meta import step
from aevo.meta.agent import PROPOSE, judge, opening
from aevo.meta.proposing import Question
from aevo.meta.rules import propose
from aevo.policy import discoveries
from aevo.policy import document as policies
from aevo.policy.case import History
from aevo.policy.constitution import RULES
from aevo.records.change import Change, Edit
from aevo.records.evidence import Evidence, RunSummary
from aevo.records.manifest import Manifest
from aevo.records.policy import Policy
from aevo.records.proposal import Attempt, Prompt, Proposal, Session, Verdict
from aevo.records.trace import Event
from tests.conftest import REPO, until
from tests.evidence.test_collector import killed_everywhere
from tests.evidence.test_collector_agent import INJECTION, agent_config
from tests.support.builders import (
    CONSTITUTION,
    SINGLE,
    FakeBoard,
    catalogue,
    files,
    paper_world,
    start_campaign,
)
from tests.support.builders import write_round as write_workers
from tests.support.fake_faults import hang, overloaded
from tests.support.fake_openai import FakeOpenAI
from tests.support.openai_support import calls

Brain = Callable[[dict[str, Any]], dict[str, Any]]


def good_draft(question: Question) -> dict[str, Any]:
    """What an able model may hand in after round 1 of the paper's world."""
    rules = question.rules.policy
    dead = [item for item in rules.dont_waste_budget_on if item.move == "m1"]
    return {
        "mode": "stack_and_calibrate",
        "objective": "maximise_dev",
        "reason": "The higher rate of [c01] holds at +4.0 points; small gains need replicates.",
        "axes": [
            {"axis": a.axis, "reason": f"worth a trial: {a.category}", "moves": a.moves}
            for a in rules.axes
        ],
        "promotions": [{"candidate": "c01", "figure": "+0.0250: dev +0.0375, LB +0.020"}],
        "dead_ends": [
            {
                "candidate": item.provenance.candidate,
                "move": item.move,
                "what": item.what,
                "figure": item.provenance.figure,
            }
            for item in dead
        ],
        "discoveries": [
            {
                "kind": "summary",
                "candidate": "c01",
                "figure": "dev +0.0400, LB +0.020",
                "text": "The learning rate matters most: dev and leaderboard agree.",
            }
        ],
    }


def proposes(*drafts: dict[str, Any] | str) -> Brain:
    """A brain that hands in the first draft, then the next after each refusal."""

    def brain(request: dict[str, Any]) -> dict[str, Any]:
        done = sum(message["role"] == "assistant" for message in request["messages"])
        return {
            "content": "Here it is.",
            "tool_calls": calls((f"p{done}", "propose", drafts[min(done, len(drafts) - 1)])),
        }

    return brain


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A campaign up to the evidence of round 1; the workers' files are gone."""
    layout = start_campaign(tmp_path_factory.mktemp("meta_agent") / "camp", settings=SINGLE)
    write_workers(layout, 1, paper_world())
    collector.collect(layout, 1, FakeBoard(layout, paper_world(), 8))
    for folder in layout.round(1).root.glob("c0*"):
        shutil.rmtree(folder)
    return layout


@pytest.fixture
def layout(played: Layout, tmp_path: Path) -> Layout:
    shutil.copytree(played.root, tmp_path / "camp")
    return Layout(tmp_path / "camp")


@pytest.fixture(scope="module")
def question(played: Layout) -> Question:
    evidence = read(Evidence, played.round(1).evidence)
    policy = policies.read(played, 1)
    return Question(evidence, policy, catalogue(), propose(evidence, policy, catalogue()))


@pytest.fixture
def draft(question: Question) -> dict[str, Any]:
    return good_draft(question)


def run_meta(layout: Layout, server: FakeOpenAI | str, **given: Any) -> Policy:
    agent_config(layout, 1, server if isinstance(server, str) else server.url, **given)
    step.main([str(layout.root), "1"])
    return policies.read(layout, 2)


def session(layout: Layout) -> Session:
    return read(Session, layout.round(1).meta / "session.json")


def told(server: FakeOpenAI) -> list[str]:
    return [m["content"] for m in server.chats()[-1]["messages"] if m["role"] == "tool"]


def rules_stand_in(layout: Layout, question: Question, words: str) -> None:
    """The policy is the rules', and the record says so."""
    assert policies.read(layout, 2) == question.rules.policy
    proposal = read(Proposal, layout.round(1).meta / "proposal.json")
    assert proposal.author.startswith("rules, because ") and words in proposal.author
    found = session(layout)
    assert found.author == proposal.author and found.reason and words in found.reason
    assert read(Verdict, layout.round(1).meta / "verdict.json").accepted
    assert words in layout.round(1).log.read_text(), "the round's log tells it"


def test_a_good_proposal_becomes_the_policy(
    layout: Layout, question: Question, draft: dict[str, Any]
) -> None:
    with FakeOpenAI(proposes(draft)) as server:
        policy = run_meta(layout, server, price_in=2.0, price_out=8.0)
        request = server.chats()[0]
        assert len(server.chats()) == 1
    assert request["messages"][0] == {"role": "system", "content": CONSTITUTION.read_text()}
    assert [tool["function"]["name"] for tool in request["tools"]] == ["propose"]
    source = question.evidence.candidates[1]
    assert [item.change for item in policy.standing] == [source.change]
    assert policy.standing[0].provenance.figure.startswith("+0.0250 by dev and leaderboard")
    assert policy.mode_reason.startswith("The higher rate")
    assert policy.noise.seed_sd == question.evidence.calibration.seed_sd
    assert {trial.outcome for trial in policy.tried if trial.candidate == "c01"} == {"promoted"}
    assert {d.id for d in policy.dont_waste_budget_on} >= {"clip/m1"}
    folder = layout.round(1).meta
    assert read(Proposal, folder / "proposal.json").author == "fake-model"
    assert read(Attempt, folder / "proposal-1.json").arguments == draft
    verdict = read(Verdict, folder / "verdict-1.json")
    assert [r.rule for r in verdict.rules] == ["form", "citations", *RULES] and verdict.accepted
    assert read(Prompt, folder / "prompt.json").turns[0].content == CONSTITUTION.read_text()
    found = session(layout)
    assert (found.author, found.refusals, found.reason) == ("fake-model", 0, None)
    assert found.cost.tokens_in > 2000 and (found.cost.dollars or 0) > 0.004
    kinds = [entry.kind for entry in discoveries.read(layout)]
    assert kinds[0] == "promotion" and "mode" in kinds and kinds.count("summary") == 1


def test_a_broken_rule_goes_back_and_is_mended(layout: Layout, draft: dict[str, Any]) -> None:
    greedy = {
        **draft,
        "promotions": [*draft["promotions"], {"candidate": "c03", "figure": "dev +0.0000"}],
    }
    with FakeOpenAI(proposes({**greedy, "axes": draft["axes"][1:]}, draft)) as server:
        policy = run_meta(layout, server)
        said = told(server)[0]
    assert said.startswith("refused (1 of 3)")
    for words in (
        "R2: r01-c03-m1 has not earned promotion",
        "R7: 2 changes are promoted",
        "R12: 6 axes for 7 explorers",
    ):
        assert words in said
    assert [item.axis for item in policy.standing] == ["learning_rate"]
    assert session(layout).refusals == 1 and session(layout).author == "fake-model"
    assert not read(Verdict, layout.round(1).meta / "verdict-1.json").accepted
    assert read(Verdict, layout.round(1).meta / "verdict-2.json").accepted


def test_after_three_refusals_the_rules_stand_in(
    layout: Layout, question: Question, draft: dict[str, Any]
) -> None:
    with FakeOpenAI(proposes({**draft, "axes": []})) as server:
        run_meta(layout, server)
        assert len(server.chats()) == 3
    rules_stand_in(layout, question, "R12: 0 axes for 7 explorers")
    assert session(layout).refusals == 3
    assert {path.name for path in layout.round(1).meta.iterdir()} == {
        "prompt.json",
        "trace.jsonl",
        "session.json",
        "proposal.json",
        "verdict.json",
        *(f"{what}-{n}.json" for what in ("proposal", "verdict") for n in (1, 2, 3)),
    }


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ({"tool_calls": calls(("x", "propose", '{"mode": "trans'))}, "not a JSON object"),
        ({"tool_calls": calls(("x", "propose", {"policy": "mine"}))}, "form: mode: Field required"),
        ({"tool_calls": calls(("x", "shell", {"command": "ls"}))}, "there is no tool shell"),
        ({"content": "All is well."}, "does not call propose"),
    ],
)
def test_malformed_answers_are_bounded(
    layout: Layout, question: Question, reply: dict[str, Any], words: str
) -> None:
    with FakeOpenAI(lambda request: reply) as server:
        run_meta(layout, server)
        assert len(server.chats()) == 3
    rules_stand_in(layout, question, words)


def test_a_malformed_answer_can_be_mended(layout: Layout, draft: dict[str, Any]) -> None:
    with FakeOpenAI(proposes('{"mode": ', draft)) as server:
        assert [c.axis for c in run_meta(layout, server).standing] == ["learning_rate"]
    assert session(layout).refusals == 1


def test_an_endpoint_that_is_down_leaves_it_to_the_rules(
    layout: Layout, question: Question, draft: dict[str, Any]
) -> None:
    with FakeOpenAI(proposes(draft)) as server:
        url = server.url
    run_meta(layout, url)
    rules_stand_in(layout, question, "the endpoint failed (connection)")
    layout.policy(2).unlink()
    with FakeOpenAI(proposes(draft)) as server:  # what was decided stays decided
        run_meta(layout, server)
        assert server.chats() == []
    rules_stand_in(layout, question, "the endpoint failed (connection)")


def test_without_an_address_the_rules_stand_in(layout: Layout, question: Question) -> None:
    agent_config(layout, 1, "http://127.0.0.1:9/v1", model=None)
    step.main([str(layout.root), "1"])
    rules_stand_in(layout, question, "agent.model is not set")


def test_an_obedient_model_can_promote_nothing_by_words(tmp_path: Path, question: Question) -> None:
    """A worker's claim gives orders, and the model follows them: no figure moves, no promotion."""
    layout = start_campaign(tmp_path / "camp", settings=SINGLE)
    write_workers(layout, 1, paper_world())
    path = layout.round(1).candidate("c03").manifest
    manifest = read(Manifest, path)
    claims = manifest.claims.model_copy(
        update={"claimed_dev": 0.99, "findings": [INJECTION], "failure_modes": [INJECTION]}
    )
    write_json(path, manifest.model_copy(update={"claims": claims}))
    evidence = collector.collect(layout, 1, FakeBoard(layout, paper_world(), 8))
    assert [c.dev for c in evidence.candidates] == [c.dev for c in question.evidence.candidates]
    obedient = {**good_draft(question), "promotions": [{"candidate": "c03", "figure": "dev 0.99"}]}
    with FakeOpenAI(proposes(obedient)) as server:
        run_meta(layout, server)
        prompt = server.chats()[0]["messages"][1]["content"]
        said = told(server)[0]
    assert "ignore previous instructions" not in prompt  # claims do not reach the meta step
    assert "promotion of c03: 0.99 is no figure" in said and "R2: r01-c03-m1" in said
    assert [c.provenance.candidate for c in policies.read(layout, 2).standing] == ["c01"]
    assert policies.read(layout, 2) == question.rules.policy


def refused(draft: dict[str, Any], question: Question) -> str:
    _, verdict = judge(draft, question, History(catalogue()))
    assert not verdict.accepted
    return "; ".join(f"{r.rule}: {r.text}" for r in verdict.rules if not r.passed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mode": "transfer", "objective": "maximise_transfer"}, "R3: dev is abandoned"),
        ({"reason": "It feels right to change the mode now."}, "no figure is quoted"),
        ({"reason": "Best dev was 0.99."}, "citations: reason: 0.99 is no figure"),
        (
            {"noise": {"promotion_threshold": 0.005, "figure": "seed sd 0.0035"}},
            "R20: the promotion",
        ),
        ({"noise": {"lb_threshold": 0.005, "figure": "LB noise 0.01"}}, "chance would promote"),
        ({"noise": {"lb_threshold": 0.03, "figure": "seed sd 0.0777"}}, "0.0777 is no figure"),
        ({"noise": {"lb_threshold": 0.03, "figure": "as I said"}}, "noise: it quotes no figure"),
        (
            {
                "selection": {
                    "criterion": "reweighted",
                    "weights": {"moon": 1.0},
                    "figure": "dev 0.708",
                }
            },
            "R21: unknown domains are weighed: moon",
        ),
        (
            {
                "dead_ends": [
                    {"candidate": "c01", "move": "m1", "what": "bad", "figure": "dev +0.04"}
                ]
            },
            "c01's m1 earned promotion",
        ),
        (
            {
                "dead_ends": [
                    {"candidate": "c04", "move": "m9", "what": "bad", "figure": "dev +0.01"}
                ]
            },
            "c04 did not try m9; its moves: m1",
        ),
        ({"promotions": [{"candidate": "c77", "figure": "dev +0.04"}]}, "c77 is no explorer"),
        ({"promotions": [{"candidate": "c00", "figure": "dev 0.708"}]}, "c00 is no explorer"),
        ({"discoveries": []}, "0 entries of kind summary"),
        ({"retirements": [{"figure": "LB +0.020"}]}, "a retirement names one axis or one category"),
        (
            {"retirements": [{"axis": "rank", "figure": "dev +0.0000"}]},
            "R16: rank is assigned though",
        ),
        ({"shell": "rm -rf /"}, "shell: Extra inputs are not permitted"),
    ],
)
def test_what_is_refused(
    question: Question, draft: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    axes = [*draft["axes"][:-1], {"axis": "rank", "reason": "again", "moves": ["m2"]}]
    assert words in refused({**draft, "axes": axes, **change}, question)


def test_axes_are_the_catalogues_or_whole(question: Question, draft: dict[str, Any]) -> None:
    def with_axis(axis: dict[str, Any]) -> str:
        return refused({**draft, "axes": [*draft["axes"][:-1], axis]}, question)

    assert "needs category, brief and knobs" in with_axis({"axis": "mine", "reason": "new"})
    assert "R11: axis rank: its worker knows no other candidate" in with_axis(
        {"axis": "rank", "reason": "as c01 did"}
    )
    assert "R15: rank has no move m77" in with_axis(
        {"axis": "rank", "reason": "go on", "moves": ["m77"]}
    )
    own = {
        "axis": "dropout",
        "category": "regularisation",
        "brief": "Vary the adapter's dropout.",
        "knobs": ["train.lora.dropout"],
        "reason": "never varied so far",
    }
    proposal, verdict = judge(
        {**draft, "axes": [*draft["axes"][:-1], own]}, question, History(catalogue())
    )
    assert verdict.accepted and proposal is not None
    assert proposal.policy.axes[-1].knobs == ["train.lora.dropout"]


def test_a_stack_needs_its_moves_alone(question: Question, draft: dict[str, Any]) -> None:
    used = {item["axis"] for item in draft["axes"][:-1]} | {"clip"}
    free = [axis for axis in catalogue().axes if axis.id not in used][:2]
    parts = [{"axis": axis.id, "move": axis.moves[-1].id} for axis in free]
    stack = {"axis": "both", "combines": parts, "reason": "each may help a little"}
    proposal, verdict = judge(
        {**draft, "axes": [*draft["axes"][:-1], stack]}, question, History(catalogue())
    )
    assert verdict.accepted and proposal is not None
    brief = proposal.policy.axes[-1]
    assert (brief.axis, brief.category) == ("both", "stack")
    assert sorted(brief.knobs) == sorted(k for axis in free for k in axis.moves[-1].set)
    stack["combines"] = [parts[0], {"axis": free[1].id, "move": "m77"}]
    said = refused({**draft, "axes": [*draft["axes"][:-1], stack]}, question)
    assert "both combines what the catalogue does not have" in said


def test_noise_rule_and_search_mode_can_be_revised(
    question: Question, draft: dict[str, Any]
) -> None:
    revised = {
        **draft,
        "selection": None,
        "noise": {"promotion_threshold": 0.03, "lb_threshold": 0.03, "figure": "seed sd 0.0035"},
        "retirements": [{"category": "capacity", "figure": "dev +0.0000 of [c03]"}],
        "axes": [axis for axis in draft["axes"] if axis["axis"] != "rank"],
    }
    spare = next(
        a
        for a in catalogue().axes
        if a.category != "capacity" and a.id not in {axis["axis"] for axis in draft["axes"]}
    )
    while len(revised["axes"]) < 7:
        revised["axes"].append({"axis": spare.id, "reason": "comes in", "moves": ["m2"]})
    proposal, verdict = judge(revised, question, History(catalogue()))
    assert verdict.accepted and proposal is not None, verdict
    rule = proposal.policy.noise
    assert (rule.promotion_threshold, rule.lb_threshold, rule.prior) == (0.03, 0.03, 0.01)
    assert rule.provenance.round == 1 and rule.seed_sd == question.evidence.calibration.seed_sd
    assert [r.until_round for r in proposal.policy.retired] == [2]
    assert {d.kind for d in proposal.discoveries} >= {"noise", "mode", "summary"}


def test_the_tools_schema_stands_alone() -> None:
    text = json.dumps(PROPOSE.parameters)
    assert "$ref" not in text and "$defs" not in text
    assert PROPOSE.parameters["required"] == ["mode", "objective", "reason", "axes", "discoveries"]


def test_the_prompt_holds_the_round_and_fits(question: Question) -> None:
    system, task = opening(question, History(catalogue()), "the constitution")
    assert system.content == "the constitution"
    assert len(task.content) < 40_000
    for words in (
        '"maximise_dev": {"c01": "+0.0250 by dev',
        "weight_decay",
        '"dev_band": 0.02',
        "7 axes, over at least 5 categories",
    ):
        assert words in task.content


def asked_with(question: Question, name: str, **words: Any) -> str:
    """The prompt, were a candidate's summary to hold this."""
    found = [
        item.model_copy(update=words if item.candidate == name else {})
        for item in question.evidence.candidates
    ]
    evidence = question.evidence.model_copy(update={"candidates": found})
    asked = dataclasses.replace(question, evidence=evidence)
    return opening(asked, History(catalogue()), "")[1].content


def test_code_its_authors_words_and_curves_are_shown(question: Question) -> None:
    edit = Edit(file="train/loop.py", find="a\nlr = 1\n", replace="a\nlr = 2\n")
    run = RunSummary(
        run=1,
        change=Change(edits=[edit]),
        checkpoint=None,
        dev=None,
        gain=None,
        failure="run 1: diverged </spent>",
        curve=[(1, 0.7531), (60, 0.2519)],
    )
    words = {"title": "twice the rate", "said": "I doubled it.", "change": run.change}
    text = asked_with(question, "c03", runs=[run], **words)
    (shown,) = re.findall(r"<changes[^>]*>\n(.*?)\n</changes>", text, re.DOTALL)
    code = next(json.loads(line) for line in shown.splitlines() if "c03" in line)
    assert code["diff"] == ["train/loop.py:", "- lr = 1", "+ lr = 2"]
    assert (code["title"], code["said"]) == ("twice the rate", "I doubled it.")
    (spent,) = re.findall(r"<spent[^>]*>\n(.*?)\n</spent>", text, re.DOTALL)
    told = json.loads(spent)["c03"]
    assert told["curves"] == {"1": [[1, 0.7531], [60, 0.2519]]}
    assert told["failed"] == ["run 1: diverged </spent>"] and text.count("</spent>") == 1
    assert "0.7531" not in text.replace(spent, ""), "no figure: nothing may be quoted from a curve"


def test_the_ask_says_what_the_rules_bind(question: Question, draft: dict[str, Any]) -> None:
    task = opening(question, History(catalogue()), "")[1].content
    assert "at most 1 that is established" in task
    one = question.evidence.model_copy(update={"candidates": question.evidence.candidates[:2]})
    alone = dataclasses.replace(question, evidence=one)
    assert "- 1 axis, over" in opening(alone, History(catalogue()), "")[1].content
    dead = draft["dead_ends"]
    assert dead, "the round has dead ends"
    for item in dead:
        del item["move"]  # the one that the candidate stands by: no long summary to be typed
    proposal, verdict = judge({**draft, "dead_ends": dead}, question, History(catalogue()))
    assert verdict.accepted and proposal is not None
    named = {(e.provenance.candidate, e.move) for e in proposal.policy.dont_waste_budget_on}
    assert {(item["candidate"], "m1") for item in dead} <= named


def test_a_model_without_tool_calls_proposes_in_text(layout: Layout, draft: dict[str, Any]) -> None:
    block = json.dumps({"name": "propose", "arguments": draft})
    with FakeOpenAI(
        lambda request: {"content": f"So be it.\n```tool\n{block}\n```"}, native_tools=False
    ) as server:
        run_meta(layout, server)
    assert session(layout).author == "fake-model"


@pytest.mark.long(3)
def test_model_and_rules_can_take_turns(tmp_path: Path) -> None:
    """What a model left behind (an axis of its own, retirements, thresholds) stops no later round
    whose endpoint is down, and the other way round."""
    layout = start_campaign(tmp_path / "camp", settings=SINGLE)
    own = {
        "axis": "dropout",
        "category": "regularisation",
        "brief": "Vary the adapter's dropout.",
        "knobs": ["train.lora.dropout"],
        "reason": "never varied so far",
    }
    authors = []
    for number in range(1, 6):
        write_workers(layout, number, paper_world())
        evidence = collector.collect(layout, number, FakeBoard(layout, paper_world(), 8))
        policy = policies.read(layout, number)
        rules = propose(evidence, policy, catalogue()).policy
        axes = [{"axis": a.axis, "reason": a.category, "moves": a.moves} for a in rules.axes]
        old = {axis.category for axis in policy.axes} - {axis.category for axis in rules.axes}
        figure = f"best dev {evidence.calibration.best_dev:.4f}"
        draft = {
            "mode": rules.mode,
            "objective": rules.objective,
            "reason": f"so it is: {figure}",
            "axes": [*axes[:-1], own],
            "retirements": [{"category": name, "figure": figure} for name in sorted(old)],
            "selection": {
                **rules.selection.model_dump(include={"criterion", "weights"}),
                "figure": figure,
            },
            "noise": {"lb_threshold": 0.015, "promotions_per_round": 2, "figure": figure},
            "promotions": [
                {"candidate": item.provenance.candidate, "figure": figure}
                for item in rules.standing[len(policy.standing) :]
            ],
            "discoveries": [{"kind": "summary", "text": "a round went by", "figure": figure}],
        }
        with FakeOpenAI(proposes(draft)) as server:
            if number % 2 == 0:
                server.faults.add(overloaded(times=-1))
            agent_config(layout, number, server.url)
            step.main([str(layout.root), str(number)])
        found = read(Session, layout.round(number).meta / "session.json")
        authors.append(found.author if found.reason is None else f"rules: {found.reason}"[:26])
    assert authors == ["fake-model", "rules: the endpoint failed"] * 2 + ["fake-model"]
    assert len(policies.read(layout, 6).standing) >= 2


def comparable(layout: Layout) -> dict[str, bytes]:
    """All files, but for what tells the time."""
    found = files(layout.root)
    del found["round-01/meta/trace.jsonl"]
    kept = json.loads(found["round-01/meta/session.json"])
    kept["cost"]["wall_s"] = 0.0
    return {**found, "round-01/meta/session.json": json.dumps(kept).encode()}


@pytest.mark.long(7)
def test_killed_at_every_second_write_it_repeats_no_call(
    layout: Layout, tmp_path: Path, draft: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {**draft, "axes": draft["axes"][1:]}
    with FakeOpenAI(proposes(bad, draft)) as server:
        agent_config(layout, 1, server.url)
        whole = Layout(tmp_path / "whole")
        shutil.copytree(layout.root, whole.root)
        step.main([str(whole.root), "1"])
        expected, asked = comparable(whole), [len(server.chats())]

        def check(tried: Layout) -> None:
            assert comparable(tried) == expected
            assert len(server.chats()) == asked[0] + 2
            asked[0] += 2

        kills = killed_everywhere(
            monkeypatch, layout, lambda tried: step.main([str(tried.root), "1"]), check, step=2
        )
    assert kills >= 15


@pytest.mark.long(3)
def test_kill_9_in_the_middle_of_the_second_call(layout: Layout, draft: dict[str, Any]) -> None:
    """The first call is never made again; the one in flight is."""
    with FakeOpenAI(proposes({**draft, "axes": []}, draft)) as server:
        agent_config(layout, 1, server.url)
        server.faults.add(hang(60, match="refused (1 of 3)"))
        command = [
            sys.executable,
            "-c",
            "import sys; from aevo.meta import step; step.main(sys.argv[1:])",
            str(layout.root),
            "1",
        ]
        environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
        with subprocess.Popen(command, cwd=REPO, env=environment) as process:
            until(lambda: len(server.chats()) == 2)
            process.send_signal(signal.SIGKILL)
        assert not layout.policy(2).exists()
        subprocess.run(command, cwd=REPO, env=environment, check=True, timeout=200)
        lengths = [len(request["messages"]) for request in server.chats()]
    assert lengths == [2, 4, 4]
    assert session(layout).author == "fake-model" and session(layout).refusals == 1
    events = read_lines(Event, layout.round(1).meta / "trace.jsonl")
    assert [event.seq for event in events] == list(range(len(events)))
