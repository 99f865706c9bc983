"""The tool loop and its tools: confined, repairable, continued from the trace after any crash."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aevo.config.agent import EndpointSettings
from aevo.files.documents import read
from aevo.files.untrusted import remove_tree
from aevo.llm.model import Reply, ToolSchema
from aevo.policy.bundles import brief_for
from aevo.policy.document import read as read_policy
from aevo.records.plan import Budget, Plan
from aevo.records.policy import MoveRef
from aevo.records.trace import ToolCall, Trace, Turn
from aevo.substrate.catalogue import Move, load
from aevo.work.brief import first_turns
from aevo.work.budget import Meter
from aevo.work.loop import run_loop
from aevo.work.scripted import ScriptedModel
from aevo.work.tools import FINISHED, Toolbox, shorten
from aevo.work.worker import build_manifest, build_model, check_command, open_broker
from tests.attacks.tables import KINDS
from tests.conftest import REGRESSION, Cli
from tests.support.fake_faults import overloaded
from tests.support.fake_openai import FakeOpenAI, says_hello

pytestmark = pytest.mark.long(20)

BUDGET = Budget(trainings=2, turns=30, wall_s=600)
OPENING = [Turn(role="system", content="mission"), Turn(role="user", content="task")]


@pytest.fixture(scope="module")
def finished_round(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """A round of two candidates, run for real."""
    cli = Cli(tmp_path_factory.mktemp("agent"))
    done = cli.run("round", "policy.axes=[schedule]", n=2)
    assert done.returncode == 0, done.stderr
    yield cli


@pytest.fixture
def toolbox(finished_round: Cli) -> Toolbox:
    broker = open_broker(finished_round.layout(), 1, "c01")
    return Toolbox(broker.files.fork, broker.substrate, broker)


def call(toolbox: Toolbox, name: str, **arguments: object) -> str:
    return toolbox.call(ToolCall(id="x", name=name, arguments=arguments))


class Scripted:
    """A model that says what it is told, and counts how often it is asked."""

    name = "test"

    def __init__(self, calls: list[ToolCall]) -> None:
        self.calls, self.asked = calls, 0

    def complete(self, turns: list[Turn], tools: list[ToolSchema]) -> Reply:
        self.asked += 1
        done = sum(turn.role == "assistant" for turn in turns)
        return Reply(turn=Turn(role="assistant", content="", tool_calls=[self.calls[done]]))


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("read_file", {"path": "../../c00/fork/recipe.yaml"}, "outside of your fork"),
        ("read_file", {"path": "/etc/passwd"}, "outside of your fork"),
        ("read_file", {"path": "frozen/../../../../README.md"}, "outside of your fork"),
        ("write_file", {"path": "eval/score.py", "content": ""}, "not mutable"),
        ("write_file", {"path": "frozen/eval/score.py", "content": ""}, "not mutable"),
        ("write_file", {"path": "../manifest.json", "content": ""}, "outside of your fork"),
        ("edit_file", {"path": "recipe.yaml", "find": "no such text", "replace": ""}, "0 times"),
        ("read_file", {"path": "data/none.py"}, "No such file"),
        ("read_file", {"pth": "recipe.yaml"}, "path: Field required"),
        ("train", {"seed": 7}, "seed: Extra inputs are not permitted"),
        ("evaluate", {"run": 9}, "no training run 9"),
        ("sbatch", {}, "there is no tool `sbatch`"),
        ("search", {"pattern": "("}, "not a regular expression"),
        ("finish", {"run": 1, "checkpoint": "step-9999", "summary": ""}, "no scored checkpoint"),
    ],
)
def test_mistaken_or_forbidden_call_is_answered_not_raised(
    toolbox: Toolbox, name: str, arguments: dict[str, object], expected: str
) -> None:
    answer = call(toolbox, name, **arguments)
    assert answer.startswith("error: ") and expected in answer


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("binary", "folder")])
@pytest.mark.parametrize("tool", ["check", "train"])
def test_what_lies_in_the_fork_holds_nobody_up(toolbox: Toolbox, tool: str, kind: str) -> None:
    path = toolbox.fork / "data" / "odd.py"
    KINDS[kind](path)
    try:
        assert call(toolbox, tool).startswith("error: ")
    finally:
        path.unlink()
        (toolbox.fork / "data" / "twin-of").unlink(missing_ok=True)


def test_folders_in_each_other_without_end_hold_nobody_up(toolbox: Toolbox) -> None:
    deep = "import os\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')"
    assert call(toolbox, "run", command=f'cd data; python -c "{deep}"') == "exit code 0\n"
    assert call(toolbox, "run", command=f'cd $TMPDIR; python -c "{deep}"') == "exit code 0\n"
    try:
        for tool in ("check", "train", "list_files"):
            assert len(call(toolbox, tool)) < 1000
    finally:
        remove_tree(toolbox.fork / "data" / "d")


def test_link_out_of_the_fork_is_not_followed(toolbox: Toolbox) -> None:
    link = toolbox.fork / "data" / "link"
    link.symlink_to("/etc/passwd")
    try:
        assert "outside of your fork" in call(toolbox, "read_file", path="data/link")
        assert "outside of your fork" in call(toolbox, "write_file", path="data/link", content="")
    finally:
        link.unlink()


def test_files_can_be_listed_searched_and_read_also_the_frozen_ones(toolbox: Toolbox) -> None:
    assert "recipe.yaml" in call(toolbox, "list_files")
    assert "data/build.py:" in call(toolbox, "search", pattern="LABEL_FLIPS = ")
    assert '"""Three' in call(toolbox, "read_file", path="frozen/eval/domains.py", lines=1)


def test_edit_that_ran_before_a_crash_may_run_again(toolbox: Toolbox) -> None:
    edit = {"path": "data/build.py", "find": "LABEL_FLIPS = True", "replace": "LABEL_FLIPS = False"}
    assert call(toolbox, "edit_file", **edit).endswith("edited")
    assert "already" in call(toolbox, "edit_file", **edit)
    call(toolbox, "edit_file", path="data/build.py", find=edit["replace"], replace=edit["find"])


def test_shell_returns_output_and_exit_code_and_is_timed_out(toolbox: Toolbox) -> None:
    assert call(toolbox, "run", command="echo out; exit 3") == "exit code 3\nout\n"
    assert call(toolbox, "run", command="sleep 60", timeout_s=1).startswith("timed out after 1 s")


def test_long_output_keeps_head_and_tail() -> None:
    text = shorten("a" * 20_000 + "end")
    assert text.startswith("aaa") and text.endswith("end") and len(text) < 13_000


def test_anchor_may_not_be_edited(finished_round: Cli) -> None:
    broker = open_broker(finished_round.layout(), 1, "c00")
    recipe = broker.files.fork / "recipe.yaml"
    original = recipe.read_text()
    recipe.write_text(original.replace("steps: 60", "steps: 61"))
    broker = open_broker(finished_round.layout(), 1, "c00")
    object.__setattr__(broker, "trace", Trace(finished_round.folder / "empty.jsonl"))
    tools = Toolbox(broker.files.fork, broker.substrate, broker)
    try:
        assert "standing recipe untouched" in call(tools, "train")
    finally:
        recipe.write_text(original)


def test_budget_of_trainings_is_kept(finished_round: Cli) -> None:
    broker = open_broker(finished_round.layout(), 1, "c00")
    tools = Toolbox(broker.files.fork, broker.substrate, broker)
    assert "budget of 2 training runs is spent" in call(tools, "train")


def test_loop_cut_at_any_turn_ends_the_same(finished_round: Cli, tmp_path: Path) -> None:
    """The trace of a real candidate, cut after every line, continues to the same manifest."""
    layout = finished_round.layout()
    broker = open_broker(layout, 1, "c01")
    whole = broker.files.trace.read_text().splitlines(keepends=True)
    policy = read_policy(layout, 1)
    reference = json.loads(broker.files.manifest.read_text())
    for cut in range(len(whole)):
        path = tmp_path / f"trace-{cut}.jsonl"
        torn = whole[cut][: len(whole[cut]) // 2]
        path.write_text("".join(whole[:cut]) + torn)
        broker = open_broker(layout, 1, "c01")
        object.__setattr__(broker, "trace", Trace(path))
        moves, check = broker.moves(), check_command(broker)
        model = ScriptedModel(moves, 1, "recipe.yaml", check, broker.candidate.agent_seed)
        tools = Toolbox(broker.files.fork, broker.substrate, broker)
        mutable = broker.substrate.file.mutable
        first = first_turns(policy, broker.candidate, mutable, moves, check, 2, 40)
        meter = Meter(broker.plan.budget, broker.trace)
        outcome = run_loop(model, tools, broker.trace, first, meter)
        manifest = build_manifest(broker, tools.finish_call, outcome.reason, model.name)
        data = json.loads(manifest.model_dump_json())
        data["cost"] = reference["cost"]
        assert data == reference, f"cut after line {cut}"
        assert [turn.role for turn in broker.trace.turns()][:3] == ["system", "user", "assistant"]


def test_finished_calls_are_not_repeated(toolbox: Toolbox, tmp_path: Path) -> None:
    calls = [
        ToolCall(id="1", name="run", arguments={"command": "echo x >> data/count"}),
        ToolCall(id="2", name="finish", arguments={"summary": "done"}),
    ]
    path = tmp_path / "trace.jsonl"
    begun = Trace(path)
    run_loop(Scripted(calls), toolbox, begun, OPENING, Meter(BUDGET, begun))
    model = Scripted(calls)
    again = Trace(path)
    outcome = run_loop(model, toolbox, again, OPENING, Meter(BUDGET, again))
    assert outcome.reason == "finished" and model.asked == 0
    assert (toolbox.fork / "data" / "count").read_text() == "x\n"


def test_model_without_tool_call_is_nudged_and_turns_are_bounded(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    class Talker(Scripted):
        def complete(self, turns: list[Turn], tools: list[ToolSchema]) -> Reply:
            return Reply(turn=Turn(role="assistant", content="let me think"))

    trace = Trace(tmp_path / "trace.jsonl")
    outcome = run_loop(
        Talker([]), toolbox, trace, OPENING, Meter(Budget(trainings=1, turns=8, wall_s=60), trace)
    )
    assert outcome.reason == "turns"
    said = [turn.content for turn in trace.turns() if turn.role == "user"]
    assert sum(turn.role == "assistant" for turn in trace.turns()) == 9, "8, and the last word"
    assert any("Call a tool" in text for text in said)
    assert any("budget is spent (turns)" in text for text in said)


def test_an_endpoint_that_is_down_shows_in_the_rounds_log_and_the_workers(
    toolbox: Toolbox, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    broker = toolbox.broker
    with FakeOpenAI(says_hello) as server:
        server.faults.add(overloaded(times=2))
        agent = EndpointSettings(base_url=server.url, model=server.model)
        config = broker.campaign.config.model_copy(update={"agent": agent})
        asked = replace(broker, campaign=replace(broker.campaign, config=config))
        build_model(asked, [], "").complete(OPENING, [])
    log, again = broker.round.log.read_text(), "the endpoint answers again"
    assert "c01        waiting for the endpoint: server: HTTP 503" in log
    assert f"c01        {again}" in log
    assert capsys.readouterr().out.splitlines()[-1] == again  # what a status shows of the worker


def test_scripted_model_leaves_a_move_that_does_not_build() -> None:
    moves = [Move(id="bad", set={"a.b": 1}, why="?"), Move(id="good", set={"a.c": 2}, why="!")]
    model = ScriptedModel(moves, 1, "recipe.yaml", "build", seed=0)
    turns = [*OPENING]
    seen: list[ToolCall] = []
    answers = {
        "list_files": "",
        "read_file": "a: {b: 0, c: 0}\n",
        "write_file": "written",
        "train": '{"run": 1}',
        "evaluate": json.dumps({"selected": None, "scores": {}}),
        "wait": json.dumps({"status": "failed", "failure": "x", "checkpoints": []}),
    }
    while not seen or seen[-1].name != "finish":
        turn = model.complete(turns, []).turn
        seen += turn.tool_calls
        name = seen[-1].name
        answer = "exit code 2\nerror: no" if name == "run" else answers.get(name, FINISHED)
        turns += [turn, Turn(role="tool", tool_call_id=seen[-1].id, content=answer)]
    assert [c.name for c in seen].count("run") == 2
    assert "train" not in [c.name for c in seen]
    assert len(seen[-1].arguments["failure_modes"]) == 2


def test_a_stacks_worker_is_asked_for_all_of_it_together(finished_round: Cli) -> None:
    layout = finished_round.layout()
    refs = [MoveRef(axis="steps", move="longer"), MoveRef(axis="label_noise", move="clean")]
    catalogue = load(REGRESSION / "axes.yaml")
    brief = brief_for(refs, catalogue, "undecided alone")
    plan = read(Plan, layout.round(1).plan).candidate("c01").model_copy(update={"axis": brief})
    moves = catalogue.assigned(brief)
    turns = first_turns(read_policy(layout, 1), plan, ["data"], moves, "check", 2, 40)
    text = turns[-1].content
    assert "Make all of it together" in text and "steps/longer" in text
    assert "data.noise=0; train.steps=600" in text and "have not been tried" not in text


def test_prompt_tells_a_worker_nothing_of_the_others(finished_round: Cli) -> None:
    layout = finished_round.layout()
    plan = read(Plan, layout.round(1).plan)
    turns = first_turns(read_policy(layout, 1), plan.candidate("c01"), ["data"], [], "check", 2, 40)
    text = " ".join(turn.content for turn in turns)
    assert "schedule" in text and "maximise dev" in text
    assert "c00" not in text and "c02" not in text and "hidden" not in text
