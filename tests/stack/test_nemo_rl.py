"""trainer=nemo_rl over a stand-in for NeMo-RL and Ray that trains on CPU.

The oracle of SFT is trainer=peft: the same recipe must give the same losses and the same adapter,
although rows, order, schedule, states and export go another way.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from data.recipe import RL
from eval.adapter import base_shapes, load_adapter
from peft import LoraConfig
from safetensors.torch import load_file
from train import peft_backend
from train.nemo_rl import __main__ as command
from train.nemo_rl import book, cluster, driver, export, rows, settings, tasks
from train.nemo_rl import run as running
from train.nemo_rl.tasks import NemoRlError
from train.peft_format import peft_config
from train.rl.rounds import Sampled
from train.run import Run

pytestmark = pytest.mark.long(40)

STANDIN = Path(__file__).with_name("standin_rl")
SUBSTRATE = Path(__file__).parents[2] / "substrate" / "default"
LAYOUT = settings.Layout(1, 1, 0, 0, 512, 1)
Recipe = dict[str, Any]


def written(folder: Path, recipe: Recipe, **train: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | {"train": recipe["train"] | train}))
    return path


def words(recipe: Path, data: Path, base: Path, out: Path, *more: str) -> list[str]:
    given = {"recipe": recipe, "data": data, "base": base, "out": out, "home": STANDIN}
    named = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return [*named, "--seed", "7", "--family", "nano", "--sequence", "512", *more]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_sft_is_that_of_trainer_peft(
    short_recipe: Recipe, train_path: Path, nemotron_base: Path, tmp_path: Path
) -> None:
    """The command in a process of its own, with every knob at a value of its own and rows of
    unequal weight."""
    lines = read_lines(train_path)
    for number, line in enumerate(lines):
        line["weight"] = (1.0, 0.3, 2.7)[number % 3]
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = written(
        tmp_path,
        short_recipe,
        steps=4,
        batch_size=3,
        learning_rate=2e-3,
        checkpoints=2,
        schedule={"shape": "wsd", "warmup": 0.3, "final": 0.1},
        optimizer={"weight_decay": 0.2, "clip": 0.7, "beta1": 0.8, "beta2": 0.95},
        lora={"rank": 6, "alpha": 9, "dropout": 0.0, "targets": ["in_proj", "o_proj", "up_proj"]},
        loss={"mask": "answer", "domain_weights": {}},
    )
    given = yaml.safe_load(recipe.read_text())
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "train.nemo_rl",
            *words(recipe, data, nemotron_base, tmp_path / "n"),
        ],
        cwd=SUBSTRATE,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(STANDIN)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    peft_backend.execute(Run(given, data, nemotron_base, tmp_path / "p", seed=7, threads=1))
    ours, theirs = (read_lines(tmp_path / name / "metrics.jsonl") for name in ("n", "p"))
    for key in ("step", "tokens"):
        assert [line[key] for line in ours] == [line[key] for line in theirs]
    for key in ("loss", "grad_norm", "lr"):
        assert [line[key] for line in ours] == pytest.approx(
            [line[key] for line in theirs], abs=1e-4
        )
    for step in (2, 4):
        place = f"checkpoints/step-{step:06d}/adapter_model.safetensors"
        got, expected = (load_file(tmp_path / name / place) for name in ("n", "p"))
        assert got.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.allclose(got[name], tensor, atol=1e-4), name
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("n", "p")]
    for key in ("status", "steps", "checkpoints", "trainable_parameters", "tokens"):
        assert results[0][key] == results[1][key]
    assert results[0]["trainer"] == "nemo_rl"
    assert not (tmp_path / "ray-started.jsonl").exists()  # the cluster was ended


@pytest.fixture
def in_forks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVIDIA's scripts in forks of this process, which has torch already."""
    sys.path.insert(0, str(STANDIN))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run(argv: list[str], **_: Any) -> Any:
        if argv[1] == "-c":  # ray
            return SimpleNamespace(returncode=0)
        child = os.fork()
        if not child:
            code = 99
            try:
                monkeypatch.setattr(driver, "await_nodes", lambda units: None)
                code = driver.main(argv[3:])
            finally:
                os._exit(code)
        return SimpleNamespace(returncode=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    monkeypatch.setattr(running.subprocess, "run", run)
    yield
    sys.path.remove(str(STANDIN))


def test_stages_go_on_after_a_kill_in_each_of_them(
    short_recipe: Recipe,
    train_path: Path,
    nemotron_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_forks: None,
) -> None:
    """What was finished is not started again, and the run ends as an undisturbed one."""
    recipe = short_recipe | {
        "train": short_recipe["train"]
        | {
            "steps": 8,
            "batch_size": 4,
            "checkpoints": 4,
            "lora": {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": "attention"},
            "stages": {"rft": 0.2, "dpo": 0.3, "grpo": 0.25},
            "rl": {"samples": 2, "rounds": 1, "length_penalty": 0.1},
        }
    }

    def go(name: str) -> dict[str, Any]:
        run = Run(recipe, train_path, nemotron_base, tmp_path / name, seed=7, threads=1)
        return running.execute(run, LAYOUT, "nano", STANDIN)

    whole = go("whole")
    for kind, step, finished in (("sft", 2, 0), ("dpo", 1, 3), ("grpo", 1, 5)):
        monkeypatch.setenv("STANDIN_KILL", f"{kind}:{step}")
        with pytest.raises(NemoRlError, match=r"ended with exit status -9"):
            go("killed")
        done = sorted((tmp_path / "killed" / "state").glob("*/done.json"))
        assert len(done) >= finished
        times = [path.stat().st_mtime_ns for path in done]
    monkeypatch.delenv("STANDIN_KILL")
    result = go("killed")
    assert [path.stat().st_mtime_ns for path in done] == times
    assert result["status"] == "ok" and len(result["resumed_from"]) == 3
    for key in ("steps", "checkpoints", "tokens", "read", "budget"):
        assert result[key] == whole[key]
    ours, theirs = (read_lines(tmp_path / name / "metrics.jsonl") for name in ("killed", "whole"))
    assert [line["step"] for line in theirs] == list(range(1, whole["steps"] + 1))
    for key in ("step", "stage", "tokens", "loss", "lr"):
        assert [line[key] for line in ours] == [line[key] for line in theirs], key
    stages = list(dict.fromkeys(line["stage"] for line in theirs))
    assert stages == ["sft", "rft", "dpo", "grpo"]
    kinds = [
        (tmp_path / "whole" / "state" / task / "kind").read_text()
        for task in ("00-sft", "02-rft", "04-dpo", "05-grpo")
    ]
    assert kinds == ["sft", "rft", "dpo", "grpo"]
    rewards = [line["reward"] for line in theirs if line["stage"] == "grpo"]
    assert all(0.3 < reward < 0.5 for reward in rewards)  # half are right, less their length
    assert whole["tokens"] + whole["read"] == pytest.approx(whole["budget"], rel=0.5)
    last = tmp_path / "whole" / whole["checkpoints"][-1]["path"]
    assert load_adapter(last, base_shapes(nemotron_base)).rank == 4


@pytest.mark.parametrize(
    ("arguments", "train", "reason"),
    [
        (("--home", "/no/where"), {}, "run it in NVIDIA's container"),
        (("--family", "auto"), {}, "6 layers of 64 are none of nano 52 x 2688"),
        (("--sequence", "16"), {}, "raise trainer.options.sequence"),
        (("--gpus", "3"), {}, "8 rows a step are not a multiple of GPUs x micro_batch = 3 x 1"),
        (("--gpus", "3", "--tensor", "2"), {}, "3 GPUs cannot be divided by tensor = 2"),
        ((), {"packing": True}, "train.packing: "),
        ((), {"stages": {"grpo": 0.5}, "rl": {"samples": 3}}, "not a multiple of train.rl.samples"),
        ((), {"stages": {"grpo": 0.5}, "rl": {"updates": 2}}, "train.rl.updates: "),
        (
            (),
            {"lora": {"rank": 8, "alpha": 8, "dropout": 0.0, "targets": ["all", "experts"]}},
            "leave out ranks, out_proj, experts, lm_head",
        ),
    ],
)
def test_a_mistake_is_one_line_before_ray_starts(
    arguments: tuple[str, ...],
    train: dict[str, Any],
    reason: str,
    short_recipe: Recipe,
    train_path: Path,
    nemotron_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cluster, "_ray", lambda *words: pytest.fail("Ray was started"))
    recipe = written(tmp_path, short_recipe, **train)
    assert command.main(words(recipe, train_path, nemotron_base, tmp_path / "out", *arguments)) == 2
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1
    assert said.startswith("train.nemo_rl: ")


def test_nodes_are_started_as_by_ray_sub(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is the head, under its address; the others join it there, on ports of their own."""
    first, other = (cluster.words(8, "10.0.0.1", first=first) for first in (True, False))
    assert first[:3] == ["start", "--head", "--node-ip-address=10.0.0.1"]
    assert other[:2] == ["start", "--address=10.0.0.1:9900"]
    units = '--resources={"worker_units": 8, "slurm_managed_ray_cluster": 1}'
    assert units in first and units in other
    ports = [
        {w.partition("=")[2] for w in ws if w.endswith(tuple("0123456789"))}
        for ws in (first, other)
    ]
    assert "9900" in ports[0] and ports[0] & ports[1] == {"10002", "11000", "52365"}
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(cluster, "_ray", lambda *words: called.append(words) or 0)
    monkeypatch.setattr(cluster, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(cluster, "_listens", lambda address: len(called) < 2)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    cluster.join(8)  # the head is gone: so is the node
    assert [words[0] for words in called] == ["stop", "start", "stop"]
    monkeypatch.setattr(cluster, "_ray", lambda *words: words[0] == "start")
    with pytest.raises(NemoRlError, match="no Ray head at"):
        cluster.join(8)


@pytest.mark.parametrize("finite", [True, False])
def test_a_step_that_is_not_finite_ends_the_run(finite: bool, tmp_path: Path) -> None:
    one = book.Book(str(tmp_path / "m"), str(tmp_path), 4, "grpo", True, [], 5, [])
    told = {"loss": 1.0, "grad_norm": 1.0 if finite else float("nan"), "total_num_tokens": 9.0}
    if finite:
        one.add(1, told | {"reward": 0.5})
    else:
        with pytest.raises(book.Diverged):
            one.add(1, told)
    line = read_lines(tmp_path / "m")[0]
    assert (line["step"], line["tokens"], line["read"]) == (5, 9, 14)
    assert (line["grad_norm"] is None) is not finite


def test_states_are_kept_while_an_adapter_is_due(tmp_path: Path) -> None:
    for step in (0, 2, 4, 6, 8):
        (tmp_path / f"step_{step}").mkdir()
    (tmp_path / "tmp_step_10").mkdir()
    book.Book("m", str(tmp_path), 0, "sft", True, [1], 0, [2]).forget()
    book.tidy(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_2", "step_6", "step_8"]


def test_tasks_spend_the_budget_that_trainer_peft_spends() -> None:
    train = {"steps": 200, "batch_size": 32, "stages": {"rft": 0.2, "dpo": 0.2, "grpo": 0.2}}
    found = tasks.tasks(train, 200 * 32 * 100, 100.0)
    kinds = ["sft", *2 * ["answers", "rft"], *2 * ["answers", "dpo"], "grpo"]
    assert [task.kind for task in found] == kinds
    cost = {"sft": 3200, "rft": 3200, "dpo": 32 * 400, "grpo": 6400, "answers": 3200}
    spent = sum(cost[task.kind] * task.steps for task in found)
    assert spent == pytest.approx(200 * 32 * 100, rel=0.03)
    assert tasks.offsets(found) == [0, 80, 80, 90, 90, 100, 100, 102, 102, 104]
    assert [task.start for task in found if task.kind == "rft"] == [0, 10]
    assert tasks.due([50, 100, 130], 90, 30, 7) == {14}
    assert tasks.due([120], 90, 30, 7) == {30}


def test_rft_mixes_and_dpo_pairs_what_was_kept(train_path: Path, nemotron_base: Path) -> None:
    group = [Sampled([1], [2, k], k == 3, float(k == 3), 1.0) for k in (3, 3, 4)]
    rng = random.Random(1)
    pairs = rows.preferred([group, group[:2]], 3, rng)
    assert len(pairs) == 3 and all(p["chosen"] == [2, 3] and p["rejected"] == [2, 4] for p in pairs)
    assert rows.lengths(pairs) == [2 + 2 + 2] * 3
    assert rows.preferred([group[:2]], 3, rng) == []
    example = group[2].example()
    given: Any = SimpleNamespace(examples=[example])
    mixed = rows.right([group], given, 2, 4, RL, rng)
    assert [line["ids"][-1] for line in mixed] == [3, 3, 4, 4] * 2
    assert {line["learned"] for line in mixed} == {1}
    alone = rows.right([], given, 1, 4, RL, rng)
    assert [line["ids"][-1] for line in alone] == [4] * 4


def test_adapter_config_says_what_pefts_own_says() -> None:
    lora = {"rank": 8, "alpha": 12, "dropout": 0.1, "targets": "all"}
    names: dict[str, Any] = {
        f"base_model.model.backbone.layers.{n}.mixer.{m}.lora_A.weight": None
        for n, m in ((0, "in_proj"), (2, "q_proj"), (2, "k_proj"), (2, "v_proj"))
    }
    ours = LoraConfig(**{k: v for k, v in export.config(lora, names).items() if k != "peft_type"})
    assert ours.to_dict() == peft_config(lora, names)
