"""What a worker is told: by its prompt, by its tools, and by what became of its runs."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aevo.config.agent import EndpointSettings
from aevo.files.documents import read
from aevo.files.paths import CandidateLayout
from aevo.jobs.submit import submit
from aevo.llm.model import Reply, ToolSchema
from aevo.plan.candidates import make_plan
from aevo.policy import document as policies
from aevo.records.change import Change, Edit
from aevo.records.plan import Plan
from aevo.records.policy import DeadEnd, Provenance, StandingChange
from aevo.records.trace import ToolCall, Turn
from aevo.sandbox import STOPPED
from aevo.substrate.catalogue import load
from aevo.substrate.frozen import Command
from aevo.work import broker as broker_module
from aevo.work.arguments import Finish
from aevo.work.brief import first_turns
from aevo.work.budget import Meter, failures_in_a_row
from aevo.work.curve import curve, losses
from aevo.work.loop import run_loop
from aevo.work.page import anchor_before, base_score, noise, page, standing_dev
from aevo.work.tools import Toolbox
from aevo.work.worker import build_manifest, build_model, by_whom, open_broker
from tests.conftest import Cli

Tools = Callable[[str], Toolbox]


pytestmark = pytest.mark.long(25)


@pytest.fixture(scope="module")
def finished_round(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """A round of two candidates, run for real."""
    cli = Cli(tmp_path_factory.mktemp("told"))
    done = cli.run("round", "policy.axes=[schedule]", n=2)
    assert done.returncode == 0, done.stderr
    yield cli


@pytest.fixture
def fresh(finished_round: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    """The tools of a candidate that has done nothing yet, in a copy of the campaign; what it
    submits is not run."""
    shutil.copytree(finished_round.runs, tmp_path / "runs", symlinks=True)
    cli = Cli(tmp_path)
    monkeypatch.setattr(broker_module, "submit", lambda spec, cluster: None)

    def make(candidate: str) -> Toolbox:
        cli.reset(1, candidate)
        broker = open_broker(cli.layout(), 1, candidate)
        return Toolbox(broker.files.fork, broker.substrate, broker)

    return make


@pytest.fixture
def toolbox(finished_round: Cli) -> Toolbox:
    """The tools of the candidate that ran."""
    broker = open_broker(finished_round.layout(), 1, "c01")
    return Toolbox(broker.files.fork, broker.substrate, broker)


def call(toolbox: Toolbox, name: str, **arguments: object) -> str:
    """Runs a tool as the loop does: call and answer go into the trace."""
    trace = toolbox.broker.trace
    request = ToolCall(id=f"t{len(trace.turns())}", name=name, arguments=arguments)
    trace.message(Turn(role="assistant", content="", tool_calls=[request]))
    answer = toolbox.call(request)
    trace.message(Turn(role="tool", tool_call_id=request.id, content=answer))
    return answer


def answered(toolbox: Toolbox, name: str, **arguments: object) -> Any:
    return json.loads(call(toolbox, name, **arguments))


def edit(toolbox: Toolbox, find: str, put: str) -> None:
    answer = call(toolbox, "edit_file", path="recipe.yaml", find=find, replace=put)
    assert answer.startswith("recipe.yaml edited"), answer


def test_an_own_axis_is_trained_on_the_anchors_seed(finished_round: Cli) -> None:
    layout = finished_round.layout()
    campaign = open_broker(layout, 1, "c01").campaign
    policy = policies.read(layout, 1)
    own = policy.axes[0].model_copy(update={"axis": "own", "moves": []})
    rules = policy.model_copy(update={"axes": [own]})
    model = campaign.config.model_copy(update={"agent": EndpointSettings()})
    plan = make_plan(model, campaign.record, rules, "", "")
    assert plan.candidate("c01").seeds == plan.candidate("c00").seeds
    repeated = make_plan(campaign.config, campaign.record, rules, "", "").candidate("c01")
    assert not set(repeated.seeds) & set(plan.candidate("c00").seeds), "rules repeat: noise"


def test_a_second_run_of_the_same_fork_takes_the_anchors_second_seed(fresh: Tools) -> None:
    tools = fresh("c01")
    edit(tools, "steps: 60", "steps: 61")
    first, second = answered(tools, "train"), answered(tools, "train")
    seeds = tools.broker.plan.candidate("c00").seeds
    assert (first["seed"], second["seed"]) == (1, 2)
    assert [tools.broker.seed(number) for number in (1, 2)] == seeds[:2]
    assert "run 1, on another seed" in second["note"]


def test_a_mended_fork_is_trained_on_the_first_seed_again(fresh: Tools) -> None:
    tools = fresh("c01")
    edit(tools, "steps: 60", "steps: 61")
    call(tools, "train")
    edit(tools, "steps: 61", "steps: 62")
    assert answered(tools, "train")["seed"] == 1


def test_training_the_standing_recipe_as_it_is_is_warned_of(fresh: Tools) -> None:
    assert "equals the standing recipe" in answered(fresh("c01"), "train")["note"]
    assert answered(fresh("c00"), "train")["note"] is None


def ran(toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains for real and waits."""
    monkeypatch.setattr(broker_module, "submit", submit)
    assert answered(toolbox, "train")["run"] == 1
    return answered(toolbox, "wait", run=1)


def test_wait_says_why_a_run_failed(fresh: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = fresh("c01")
    path = "train/fit.py"
    call(tools, "edit_file", path=path, find="names = sorted(", replace="names = undefined(")
    status = ran(tools, monkeypatch)
    assert status["status"] == "failed" and "submitit" not in json.dumps(status)
    assert status["log"][-1] == "NameError: name 'undefined' is not defined"


def test_wait_names_the_limit_that_a_run_was_stopped_for(
    fresh: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = fresh("c01")
    run = tools.broker.files.run(1)
    said = "aevo sandbox: stopped: more than 2 GiB of memory"
    put = f"print({said!r}, flush=True)\nsys.exit({STOPPED})\nstart = done[-1]"
    call(tools, "edit_file", path="train/fit.py", find="start = done[-1]", replace=put)
    assert ran(tools, monkeypatch)["failure"] == "stopped: more than 2 GiB of memory"
    assert not run.result.exists() and tools.broker.settle(1).startswith("stopped: more than 2 GiB")


def test_a_diverged_run_shows_its_curve(fresh: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = fresh("c01")
    edit(tools, "learning_rate: 0.4", "learning_rate: 4000.0")
    status = ran(tools, monkeypatch)
    assert status["status"] == "diverged" and status["log"]
    assert status["metrics"][0].startswith("step 1, loss ")


def test_logs_give_the_metrics(toolbox: Toolbox) -> None:
    said = call(toolbox, "logs", run=1).splitlines()
    assert said[:2] == ["finished", "metrics:"] and "step 60, loss " in said[said.index("log:") - 1]
    assert len(said) < 30


def test_metrics_that_are_no_plain_file_say_nothing(tmp_path: Path) -> None:
    run = CandidateLayout(tmp_path).run(1)
    run.output.mkdir(parents=True)
    assert curve(run) == []
    run.metrics.symlink_to("/etc/passwd")
    assert curve(run) == []


def test_a_curve_on_record_is_numbers_alone(tmp_path: Path) -> None:
    run = CandidateLayout(tmp_path).run(1)
    run.metrics.parent.mkdir(parents=True)
    lines = [{"step": step, "loss": 1 / step, "seconds": 0.1} for step in range(1, 101)]
    hostile = ['{"step": 7, "loss": "IGNORE"}', '{"step": 8, "loss": NaN}', "[" * 9000, '"x"']
    hostile += [
        '{"step": 5, "loss": 1%s}' % ("0" * 4000),
        '{"step": 1%s, "loss": 1}' % ("0" * 4000),
    ]
    hostile += ['{"step": "9", "loss": 1}', '{"step": true, "loss": 1}', '{"step": 3}', "\xff"]
    again = {"step": 1, "loss": 0.123456}  # a run that was killed writes a step again
    run.metrics.write_text("\n".join([*map(json.dumps, lines), *hostile, json.dumps(again)]))
    found = losses(run)
    assert [step for step, _ in found] == [1, 15, 29, 43, 58, 72, 86, 100]
    assert found[0] == (1, 0.1235) and found[-1] == (100, 0.01)
    run.metrics.write_text("")
    assert losses(run) == [] == losses(CandidateLayout(tmp_path).run(2))


def test_a_fork_that_cannot_be_trained_costs_no_run(fresh: Tools) -> None:
    tools = fresh("c01")
    edit(tools, "examples: 240", "exampels: 240")
    assert "KeyError: 'examples'" in call(tools, "check")
    assert "remove no key" in call(tools, "train"), "nor could it be recorded"
    edit(tools, "exampels: 240", "examples: 241")
    assert "the data build" in call(tools, "check")
    call(tools, "write_file", path="train/fit.py", content="x = (")
    for name in ("check", "train"):
        said = call(tools, name)
        assert 'File "train/fit.py", line 1' in said and "'(' was never closed" in said
    assert tools.broker.runs() == []


class Batch:
    """A model that asks for one batch of calls, then finishes."""

    name = "test"

    def __init__(self, *names: str) -> None:
        self.names = names

    def complete(self, turns: list[Turn], tools: list[ToolSchema]) -> Reply:
        done = any(turn.role == "assistant" for turn in turns)
        batch = (
            [ToolCall(id="f", name="finish", arguments={"summary": ""})]
            if done
            else [
                ToolCall(
                    id=str(at),
                    name=name,
                    arguments={"path": "recipe.yaml", "find": "absent", "replace": ""}
                    if name == "edit_file"
                    else {},
                )
                for at, name in enumerate(self.names)
            ]
        )
        return Reply(turn=Turn(role="assistant", content="", tool_calls=batch))


def test_what_stands_behind_a_failed_edit_does_not_run(fresh: Tools) -> None:
    tools = fresh("c01")
    trace = tools.broker.trace
    opening = [Turn(role="system", content="s"), Turn(role="user", content="u")]
    run_loop(
        Batch("list_files", "edit_file", "train", "train"),
        tools,
        trace,
        opening,
        Meter(tools.broker.plan.budget, trace),
    )
    said = [turn.content for turn in trace.turns() if turn.role == "tool"]
    assert not said[0].startswith("error") and "occurs 0 times" in said[1]
    assert said[2] == said[3] == "error: not run: `edit_file` before it in this turn failed"
    assert tools.broker.runs() == []
    assert failures_in_a_row(trace.turns()[:-2]) == 1, "what did not run did not fail"


def test_files_are_read_with_line_numbers_and_say_where_they_stop(toolbox: Toolbox) -> None:
    said = call(toolbox, "read_file", path="recipe.yaml", lines=2).splitlines()
    assert said[:2] == ["    1\tdata:", "    2\t  examples: 240"]
    assert said[2].startswith("[… recipe.yaml has ") and "first_line" in said[2]
    whole = call(toolbox, "read_file", path="recipe.yaml", numbers=False)
    assert whole == (toolbox.fork / "recipe.yaml").read_text()
    assert "has 20 lines" in call(toolbox, "read_file", path="recipe.yaml", first_line=90)


def test_search_says_how_much_it_left_out(toolbox: Toolbox) -> None:
    (toolbox.fork / "data" / "long.txt").write_text("needle\n" * 205)
    said = call(toolbox, "search", pattern="needle")
    assert said.endswith("[… only 200 lines are shown; narrow pattern or path …]")
    (toolbox.fork / "data" / "long.txt").unlink()


def test_scores_are_given_in_short(toolbox: Toolbox) -> None:
    text = call(toolbox, "evaluate", run=1)
    found = json.loads(text)
    assert "sha256" not in text and len(text) < 700
    best = found["scores"][found["selected"]]
    assert best["dev"] == round(best["dev"], 4) and set(best["domains"]) == {"line", "ring", "xor"}


def test_the_shell_sees_what_the_file_tools_see(fresh: Tools) -> None:
    tools = fresh("c01")
    said = call(tools, "run", command="ls frozen/eval; python -c 'import numpy, eval.domains'")
    assert said.startswith("exit code 0") and "domains.py" in said
    assert tools.broker.substrate.diff(tools.fork, tools.broker.round.standing).empty
    assert "frozen" not in call(tools, "list_files")
    again = call(tools, "run", command="cat frozen/eval/items.py frozen/axes.yaml")
    assert "import" not in again and "axes:" not in again, "sealed in both"


def on_axis(tools: Toolbox, axis: str) -> Toolbox:
    """The tools of the same candidate, were it assigned another axis."""
    broker = tools.broker
    found = load(broker.substrate.catalogue).axis(axis)
    assert found is not None
    brief = found.brief_for([move.id for move in found.moves], "")
    candidate = broker.candidate.model_copy(update={"axis": brief})
    return Toolbox(tools.fork, broker.substrate, replace(broker, candidate=candidate))


def test_a_move_of_the_catalogue_is_made_exactly_and_only_once(fresh: Tools) -> None:
    tools = on_axis(fresh("c01"), "pipeline")
    for _ in range(2):
        said = call(tools, "apply_move", move="no_flips")
        assert said == "no_flips applied: data/build.py edited"
    assert "LABEL_FLIPS = False" in (tools.fork / "data/build.py").read_text()
    assert "your axis has no move linear; it has: no_flips" in call(
        tools, "apply_move", move="linear"
    )
    keys = on_axis(tools, "schedule")
    assert call(keys, "apply_move", move="linear") == "linear applied: train.schedule=linear"
    assert "schedule: linear" in (tools.fork / "recipe.yaml").read_text()


def test_a_move_that_fits_no_more_changes_nothing(fresh: Tools) -> None:
    tools = on_axis(fresh("c01"), "pipeline")
    call(tools, "write_file", path="data/build.py", content="")
    assert "does not fit your fork" in call(tools, "apply_move", move="no_flips")
    assert (tools.fork / "data/build.py").read_text() == ""


def test_a_task_shows_the_patches_of_its_moves(fresh: Tools) -> None:
    broker = on_axis(fresh("c01"), "pipeline").broker
    text = first_turns(
        policies.read(broker.campaign.layout, 1),
        broker.candidate,
        ["data"],
        broker.moves(),
        "check",
        2,
        40,
    )[-1].content
    assert "- no_flips: data/build.py edited (the same as clean labels, in code)\n" in text
    assert "    in data/build.py\n    - LABEL_FLIPS = True\n    + LABEL_FLIPS = False\n" in text
    assert "`apply_move`" in text


def test_a_task_names_the_code_that_stands_and_the_code_that_is_dead(fresh: Tools) -> None:
    """By its author's title and its lines, not as "train/fit.py edited" alone."""
    broker = fresh("c01").broker
    policy = policies.read(broker.campaign.layout, 1)
    change = Change(edits=[Edit(file="train/fit.py", find="a = 1\n", replace="a = 2\n")])
    cited = Provenance(round=1, candidate="c02", figure="dev +0.0400")
    stands = StandingChange(
        id="r01-c02", axis="width", change=change, title="twice a", provenance=cited
    )
    what = "a curriculum: lost beyond the seed band"
    axis = broker.candidate.axis
    assert axis is not None
    move = "train/fit.py edited #1a"
    dead = DeadEnd(id="x", axis=axis.axis, move=move, what=what, provenance=cited)
    known = {"standing": [stands], "dont_waste_budget_on": [dead]}
    later = policy.model_copy(update=known)
    text = first_turns(later, broker.candidate, ["data"], [], "check", 2, 40)[-1].content
    assert f"- r01-c02: twice a: {change.summary()}\n" in text
    assert "    - a = 1\n    + a = 2\n" in text
    assert "- train/fit.py edited #1a: a curriculum: lost beyond the seed band\n" in text
    assert "0.0400" not in text, "no worker is told a score"


def test_the_anchor_needs_no_model(fresh: Tools) -> None:
    for name, expected in (("c00", "scripted"), ("c01", "openai")):
        broker = fresh(name).broker
        agent = EndpointSettings(base_url="http://127.0.0.1:9/v1", model="openai")
        config = broker.campaign.config.model_copy(update={"agent": agent})
        asked = replace(broker, campaign=replace(broker.campaign, config=config))
        assert expected in build_model(asked, [], "").name
    anchor = fresh("c00").broker
    assert by_whom(anchor, build_model(anchor, [], "")).startswith("rule")


def test_an_anchor_that_stands_by_its_worst_checkpoint_changes_nothing(finished_round: Cli) -> None:
    """Every gain of the round is against it, so its agent has no say in what it stands by; an
    explorer has."""
    for name, decides in (("c00", False), ("c01", True)):
        broker = open_broker(finished_round.layout(), 1, name)
        honest = build_manifest(broker, None, "ended", "scripted").selected
        assert honest is not None
        last = max(run for run in broker.runs() if broker.files.run(run).scores.exists())
        worst = min(broker.checkpoint_scores(last), key=lambda item: item.dev)
        finish = Finish(
            run=last, checkpoint=worst.name, move=None, title="", summary="the worst of the last"
        )
        hostile = build_manifest(broker, finish, "ended", "openai").selected
        assert hostile is not None and (last, worst.name) != (honest.run, honest.checkpoint)
        if decides:
            assert (hostile.run, hostile.checkpoint) == (last, worst.name)
        else:
            assert hostile == honest
            assert hostile.run == min(broker.runs())


def test_the_prompt_says_what_the_campaign_is(fresh: Tools) -> None:
    broker = fresh("c01").broker
    layout = broker.campaign.layout
    policy = policies.read(layout, 1)
    text = page(broker, policy)
    base = base_score(layout)
    assert base is not None and base.dev is not None
    for expected in (
        f"Base checkpoint on dev: {base.dev:.3f} (line ",
        f"dev has {base.n} items",
        "the anchor trains it while you work",
        "Noise: not measured yet",
        "trainer `peft`",
        "stopped after 5 min",
        "`dev` selects",
        "smoke tests",
        "mends a first that failed",
        "7200 s of wall time",
        "12 failed calls in a row",
    ):
        assert expected in text, text
    assert "hidden" not in text and "None" not in text
    opening = first_turns(policy, broker.candidate, ["data"], [], "check", 2, 40, text)
    assert text in opening[0].content and "\n\n\n" not in opening[0].content


def test_the_page_of_a_later_round_tells_what_the_anchor_measured(finished_round: Cli) -> None:
    layout = finished_round.layout()
    plan = read(Plan, layout.round(1).plan)
    later = plan.model_copy(update={"round": 2})
    anchor = anchor_before(layout, 2)
    assert anchor is not None
    dev = sum(run.best.dev for run in anchor.runs if run.best) / 2
    assert standing_dev(layout, later) == f"{dev:.3f} (mean of 2 runs of the last round's anchor)"
    changed = later.model_copy(update={"standing_recipe_sha256": "another"})
    assert standing_dev(layout, changed).startswith("changed since; before it was 0.")
    measured = policies.read(layout, 1).noise.model_copy(update={"seed_sd": 0.014, "seed_runs": 2})
    assert noise(measured) == "sd 0.014 between seeds of one recipe (2 runs)"


def with_trial(tools: Toolbox, trial: dict[str, Any]) -> Toolbox:
    """The same tools, were the substrate to say what makes a training short, and its command to
    name the recipe."""
    broker = tools.broker
    command = broker.substrate.file.commands["train"]
    assert isinstance(command, Command)
    named = command.model_copy(update={"argv": [*command.argv, "recipe.yaml"]})
    commands = {**broker.substrate.file.commands, "train": named}
    file = broker.substrate.file.model_copy(update={"trial": trial, "commands": commands})
    substrate = replace(broker.substrate, file=file)
    campaign = replace(broker.campaign, substrate=substrate)
    return Toolbox(tools.fork, substrate, replace(broker, campaign=campaign))


def test_a_check_trains_a_few_steps_and_costs_nothing(fresh: Tools) -> None:
    tools = with_trial(fresh("c01"), {"train.steps": 12})
    edit(tools, "steps: 60", "steps: 6000000")
    path = "train/fit.py"
    call(tools, "edit_file", path=path, find='Path("recipe.yaml")', replace="Path(sys.argv[4])")
    assert "the first steps train" in call(tools, "check")
    call(tools, "edit_file", path=path, find="names = sorted(", replace="names = undefined(")
    for name in ("check", "train"):
        said = call(tools, name)
        assert "does not train" in said and "name 'undefined' is not defined" in said
    assert tools.broker.runs() == []
    assert tools.broker.substrate.diff(tools.fork, tools.broker.round.standing).set == {
        "train.steps": 6000000
    }


def test_a_stopped_run_counts_for_a_part_and_is_never_trained_again(
    fresh: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "submit", submit)
    tools = fresh("c01")
    path, slow = "train/fit.py", "import time; time.sleep(60)\nif start:"
    call(tools, "edit_file", path=path, find="if start:", replace=slow)
    assert answered(tools, "train")["run"] == 1
    said = call(tools, "stop", run=1)
    assert said == "run 1 is stopped and counts as 0.5 of a training run"
    assert call(tools, "stop", run=1) == said, "again after a crash: the same"
    status = answered(tools, "wait", run=1)
    assert (status["status"], status["failure"]) == ("failed", "stopped by its agent")
    assert tools.broker.settle(1) == "stopped by its agent"
    assert tools.broker.counts(1) == 0.5
    call(tools, "edit_file", path=path, find=slow, replace="if start:")
    assert answered(tools, "train")["trainings_left"] == 0.5
    assert "budget of 2 training runs is spent" in call(tools, "train")
    assert "there is no training run 7" in call(tools, "stop", run=7)
