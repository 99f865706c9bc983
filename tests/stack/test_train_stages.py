"""Runs with stages: rejection sampling, DPO and GRPO in the one training loop."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from data.recipe import RecipeError, load_recipe
from eval.adapter import load_adapter
from eval.decoders import load_evaluator
from eval.evaluate import score
from puzzles import split_of
from train import loop, megatron, sft
from train.batching import Batch, DataError, Example, read_rows
from train.peft_backend import execute
from train.rl import losses, plan, rounds, sampling, trainer
from train.rl.policy import PolicyBackend
from train.rl.rounds import Sampled
from train.run import Run

from tests.stack.test_train_resume import Killed, bytes_of, metrics_of, wait_for_lines

pytestmark = pytest.mark.long(40)

Recipe = dict[str, Any]
RL = {"samples": 4, "rounds": 2, "learning_rate": 1.0e-3}


def staged(recipe: Recipe, stages: dict[str, float], **rl: Any) -> Recipe:
    found: Recipe = yaml.safe_load(yaml.safe_dump(recipe))
    found["train"] |= {"stages": stages, "rl": RL | rl}
    return found


@pytest.fixture
def start(train_path: Path, tiny_base: Path, tmp_path: Path) -> Callable[..., Run]:
    """A run of a recipe in a folder of that name."""
    return lambda recipe, name: Run(recipe, train_path, tiny_base, tmp_path / name, 7, 1)


# The first five losses and the last of the small recipe at seed 7.
THEN = [0.88463682, 0.71961588, 0.41382065, 0.55877131, 0.48116383, 0.32435554]
CASES: dict[str, tuple[dict[str, float], dict[str, Any]]] = {
    "rft": ({"rft": 0.5}, {"keep": "all"}),
    "dpo": ({"rft": 0.5, "dpo": 0.5}, {}),
    "grpo": ({"grpo": 0.5}, {"kl": 0.1, "updates": 2}),
}


@pytest.mark.parametrize("case", CASES)
def test_killed_at_any_step_or_after_sampling_it_ends_as_if_undisturbed(
    case: str, short_recipe: Recipe, start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "STATE_STEPS", 2)
    stages, rl = CASES[case]
    recipe = staged(short_recipe, stages, **rl)
    recipe["train"]["lora"]["dropout"] = 0.1  # the random state matters too
    whole, cut = start(recipe, "whole"), start(recipe, "cut")
    drawn: list[list[list[int]]] = []
    ask, learn = PolicyBackend.sample, PolicyBackend.forward_backward

    def asking(self: Any, prompts: Any, *others: Any) -> Any:
        drawn.append(prompts)
        return ask(self, prompts, *others)

    monkeypatch.setattr(PolicyBackend, "sample", asking)
    undisturbed = execute(whole)
    asked, drawn[:] = list(drawn), []
    left = [0]

    def dying(self: Any, batch: Batch, step: int) -> Any:
        """Before it learns: what was sampled for the step is sampled already."""
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return learn(self, batch, step)

    monkeypatch.setattr(PolicyBackend, "forward_backward", dying)
    ended = None
    for steps in (0, 3, 5, 4, 3, 3, 1000):
        left[0] = steps
        try:
            ended = execute(cut)
            break
        except Killed:
            continue
    assert ended is not None and len(ended["resumed_from"]) >= 2
    assert bytes_of(cut.out) == bytes_of(whole.out)
    assert metrics_of(cut.out) == metrics_of(whole.out)
    same = ("steps", "final_loss", "tokens", "read", "budget", "checkpoints")
    assert {key: ended[key] for key in same} == {key: undisturbed[key] for key in same}
    if case == "grpo":
        assert len(drawn) >= len(asked)
    else:
        assert drawn == asked, "a round was sampled twice"


def test_a_killed_process_goes_on_in_the_midst_of_rl(
    short_recipe: Recipe, start: Callable[..., Run], tmp_path: Path
) -> None:
    """SIGKILL of the command itself, after its first steps on sampled answers."""
    recipe = staged(short_recipe, {"rft": 0.4, "grpo": 0.4})
    recipe["train"]["steps"] = 60
    whole, cut = start(recipe, "whole"), start(recipe, "cut")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    argv = [sys.executable, "-m", "train.sft", "--recipe", str(path), "--data", str(cut.data)]
    argv += ["--base", str(cut.base), "--seed", "7", "--out", str(cut.out)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    execute(whole)
    lines = metrics_of(whole.out)
    middle = [line["stage"] for line in lines].index("grpo") + 3
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL)
    wait_for_lines(cut.out / "metrics.jsonl", middle, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    subprocess.run(argv, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert bytes_of(cut.out) == bytes_of(whole.out)
    assert metrics_of(cut.out) == lines
    assert len(json.loads((cut.out / "result.json").read_text())["resumed_from"]) == 1


def test_a_run_spends_its_budget_and_each_stage_leaves_a_checkpoint(
    short_recipe: Recipe, start: Callable[..., Run], train_path: Path
) -> None:
    plain = execute(start(short_recipe, "plain"))
    assert "read" not in plain
    for shares, stages in (
        ({"grpo": 0.5}, ["sft", "grpo"]),
        ({"rft": 1.0}, ["rft"]),
        ({"dpo": 0.3, "rft": 0.3}, ["sft", "rft", "dpo"]),
    ):
        run = start(staged(short_recipe, shares), "-".join(stages))
        result, lines = execute(run), metrics_of(run.out)
        assert result["budget"] == plain["tokens"]
        spent = [line["tokens"] + line.get("read", 0) for line in lines]
        assert sum(spent) == result["tokens"] + result["read"]
        assert result["budget"] <= sum(spent) < result["budget"] + spent[-1]
        seen = [line["stage"] for line in lines]
        assert list(dict.fromkeys(seen)) == stages
        ends = {seen.index(after) for after in stages[1:]} | {len(seen)}
        steps = {item["step"] for item in result["checkpoints"]}
        assert ends <= steps
        assert all((run.out / item["path"]).is_dir() for item in result["checkpoints"])
    assert {split_of(row["prompt"]) for row in read_rows(train_path)} == {"train"}


def test_shares_of_nothing_are_the_run_without_stages(
    short_recipe: Recipe, start: Callable[..., Run]
) -> None:
    named, plain = start(staged(short_recipe, {"rft": 0.0}), "named"), start(short_recipe, "plain")
    for run in (named, plain):
        execute(run)
    assert bytes_of(named.out) == bytes_of(plain.out)
    assert metrics_of(named.out) == metrics_of(plain.out)


def test_the_default_recipe_trains_as_before_there_were_stages(trained: Path) -> None:
    """Losses of the small recipe as the code before stages gave them."""
    now = [line["loss"] for line in metrics_of(trained)]
    assert now[:5] + now[-1:] == pytest.approx(THEN, rel=1e-3)
    assert set(metrics_of(trained)[0]) == {"step", "loss", "lr", "grad_norm", "tokens"}


def test_samples_are_those_of_the_adapter_that_is_trained(
    short_recipe: Recipe,
    start: Callable[..., Run],
    dev_items: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At a temperature near 0 they are what the evaluation decodes, by both ways."""
    run = start(staged(short_recipe, {"rft": 1.0}, temperature=1.0e-3), "run")
    backend = PolicyBackend(run)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in backend.parameters.values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    backend.export(run.out / "adapter")
    evaluator = load_evaluator(dev_items[:64], run.base, 24)
    greedy = evaluator.outputs(load_adapter(run.out / "adapter", evaluator.shapes))
    for way in (True, False):
        monkeypatch.setattr(sampling, "supports", lambda config, way=way: way)
        answers = backend.sample(evaluator.prompts, evaluator.chat.eos_ids, 24, 5)
        texts = [evaluator.chat.decode(answer.ids) for answer in answers]
        equal = sum(a == b for a, b in zip(texts, greedy, strict=True))
        assert equal >= 60, way
        assert all(answer.ended == (len(answer.ids) < 24) for answer in answers)
    again = backend.sample(evaluator.prompts, evaluator.chat.eos_ids, 24, 5)
    assert again == answers


def test_a_reward_that_is_gamed_rises_while_dev_does_not(
    small_recipe: Recipe,
    start: Callable[..., Run],
    dev_items: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fork's reward that pays for length; `right` and dev come from frozen code."""
    recipe = staged(small_recipe, {"grpo": 0.7}, learning_rate=5.0e-3, max_new=16)
    run = start(recipe, "hacked")
    monkeypatch.setattr(trainer, "reward", lambda answer, text, length, penalty: length)
    result = execute(run)
    lines = [line for line in metrics_of(run.out) if line["stage"] == "grpo"]
    first, last = (
        sum(line["reward"] for line in some) / len(some) for some in (lines[:5], lines[-5:])
    )
    assert last > first + 0.2
    evaluator = load_evaluator(dev_items, run.base, 48)
    dev = [
        score(evaluator.predictions(load_adapter(run.out / item["path"], evaluator.shapes)))["dev"]
        for item in result["checkpoints"]
    ]
    assert dev[-1] < dev[0]
    assert lines[-1]["right"] < lines[0]["right"] + 0.2


def test_equal_rewards_everywhere_end_in_one_line(
    short_recipe: Recipe, start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "reward", lambda answer, text, length, penalty: 1.0)
    with pytest.raises(DataError, match="nothing to learn"):
        execute(start(staged(short_recipe, {"grpo": 1.0}), "run"))


def test_mistakes_are_one_line(
    short_recipe: Recipe,
    train_path: Path,
    tiny_base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, bare = tmp_path / "recipe.yaml", tmp_path / "bare.jsonl"
    recipe.write_text(yaml.safe_dump(staged(short_recipe, {"grpo": 0.5})))
    rows = [{k: v for k, v in row.items() if k != "answer"} for row in read_rows(train_path)]
    bare.write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["--recipe", str(recipe), "--base", str(tiny_base), "--seed", "1"]
    argv += ["--out", str(tmp_path / "out")]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    for main, data, said in (
        (sft.main, bare, "rows with an answer"),
        (megatron.main, train_path, "use trainer=peft"),
    ):
        assert main([*argv, "--data", str(data)]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    for stages in ({"ppo": 0.5}, {"grpo": 2.0}, {"rft": 0.7, "dpo": 0.7}):
        recipe.write_text(yaml.safe_dump(staged(short_recipe, stages)))
        with pytest.raises(RecipeError, match=r"train\.stages"):
            load_recipe(recipe)


def test_budgets_are_shared_out() -> None:
    options = {"stages": {"grpo": 0.25, "rft": 0.25, "dpo": 0.0}}
    found = plan.stages(options, 1000)
    assert [(one.method, one.start, one.end) for one in found] == [
        ("sft", 0, 500),
        ("rft", 500, 750),
        ("grpo", 750, 1000),
    ]
    assert [plan.current(found, spent) for spent in (0, 499, 500, 999, 1000)] == [0, 0, 1, 2, 2]
    assert [one.method for one in plan.stages({"stages": {"dpo": 1.0}}, 10)] == ["dpo"]


def sampled(text: str, right: bool) -> Sampled:
    return Sampled([1, 2], [ord(c) for c in text], right, float(right), 1.0)


def test_what_is_learned_of_a_groups_answers() -> None:
    group = [sampled("ab", True), sampled("ab", True), sampled("c", True), sampled("d", False)]
    kept = {keep: rounds.kept(group, keep) for keep in ("all", "unique", "shortest")}
    assert [len(some) for some in kept.values()] == [3, 2, 1]
    assert kept["shortest"] == [group[2]]
    wrong = [sampled("x", False)]
    assert rounds.kept(wrong, "shortest") == [] and rounds.opposed(wrong) is None
    assert rounds.opposed(group[:3]) is None
    pair = rounds.choose("dpo", [group, wrong], "all")
    assert [example.ids[2:] for example in pair.examples] == [[97, 98], [100]]
    assert pair.examples[0].labels == [-100, -100, 97, 98]
    assert rounds.advantages(group[:3]) == [0, 0, 0]
    found = rounds.choose("grpo", [group, group[:3]], "all")
    assert found.advantages == pytest.approx([3**-0.5] * 3 + [-(3**0.5)])
    assert rounds.Round.of(found.plain()) == found


def judged(**fields: Any) -> losses.Judged:
    ids = torch.tensor([[1, 2, 3], [1, 2, 4]])
    labels = torch.tensor([[-100, 2, 3], [-100, 2, -100]])
    one = losses.Judged(ids, labels, torch.ones(2, 3), None, None, 5)
    return replace(one, **fields)


def test_losses_are_those_of_the_papers() -> None:
    now = torch.tensor([[-1.0, -2.0], [-0.5, 0.0]], requires_grad=True)
    old = torch.tensor([[-1.5, -2.0], [-0.5, 0.0]])
    batch = judged(advantages=torch.tensor([1.0, -1.0]), old=old, reference=old)
    # the first token's ratio, e^0.5, counts 1.2; its distance to the reference is k3
    apart = math.exp(-0.5) + 0.5 - 1
    value = losses.grpo(now, batch, clip=0.2, kl=0.1)
    assert value.item() == pytest.approx((-1.2 - 1.0 + 1.0 + 0.1 * apart) / 3)
    value.backward()
    assert now.grad is not None
    # clipped: only the distance pulls at it; the second token is on the policy; the last is padding
    pull = 0.1 * (1 - math.exp(-0.5)) / 3
    assert now.grad[0].tolist() == pytest.approx([pull, -1 / 3])
    assert now.grad[1].tolist() == pytest.approx([1 / 3, 0])
    assert losses.grpo(now, judged(advantages=torch.tensor([1.0, -1.0])), 0.2, 0.1).item() == (
        pytest.approx(-1 / 3)
    )
    pair = judged(method="dpo", reference=torch.tensor([[-1.0, -2.5], [-0.5, 0.5]]))
    assert losses.dpo(now, pair, 0.2).item() == pytest.approx(math.log1p(math.exp(-0.2)))


def test_log_probabilities_are_those_of_the_loss(
    short_recipe: Recipe, start: Callable[..., Run]
) -> None:
    backend = PolicyBackend(start(staged(short_recipe, {"rft": 1.0}), "run"))
    examples = [Example([5, 6, 7, 8], [-100, -100, 7, 8], 1.0), Example([5, 9], [-100, 9], 1.0)]
    found = backend.scored(examples, 0, 1.0)
    assert [len(row) for row in found] == [3, 1]
    assert found[0][0] == 0.0
    from train.batching import collate
    from train.model import loss

    mean = loss(backend.model, collate(examples, 0)).item()
    assert -(sum(found[0]) + sum(found[1])) / 3 == pytest.approx(mean, rel=1e-5)
    backend.refer()
    with torch.no_grad():
        for parameter in backend.parameters.values():
            parameter.add_(0.1)
    moved = backend.scored(examples, 0, 1.0)
    with backend.as_reference():
        assert backend.scored(examples, 0, 1.0) == found
    assert backend.scored(examples, 0, 1.0) == moved != found
