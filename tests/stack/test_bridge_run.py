"""trainer=bridge from end to end, over a stand-in for Megatron-Bridge that trains on CPU.

The oracle is trainer=megatron: the same recipe must give the same losses and the same adapter,
although rows, loss mask, schedule and export go another way.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("megatron.core", reason="megatron-core is not installed")

import torch
import yaml
from eval.adapter import base_shapes, load_adapter
from safetensors.torch import load_file
from train import bridge, megatron
from train.nemo_bridge import imported

from tests.conftest import until
from tests.stack.bridge_support import ONE, STANDIN, stand_in, words
from tests.stack.mcore_support import Recipe, environment, losses, start_ranks

pytestmark = pytest.mark.long(70)

stand_in()

SAME = 1e-4  # of losses over twelve steps: sums are taken in another order
LAYOUTS = {
    "tensor": ("dense_base", ("--tensor", "2", "--pipeline", "1", "--expert", "1")),
    "pipeline": ("dense_base", ("--tensor", "1", "--pipeline", "2", "--expert", "1")),
    "expert": ("nemotron_base", ("--tensor", "1", "--pipeline", "1", "--expert", "2")),
}


def written(folder: Path, recipe: Recipe, **train: Any) -> Path:
    """A file of the recipe with other values of its `train` section."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | {"train": recipe["train"] | train}))
    return path


@pytest.fixture(scope="module")
def bases(nemotron_base: Path, dense_base: Path) -> dict[str, Path]:
    """Both bases, imported."""
    for base in (nemotron_base, dense_base):
        assert imported.main(["--base", str(base)]) == 0
    return {"nemotron_base": nemotron_base, "dense_base": dense_base}


@pytest.fixture(scope="module")
def recipe_path(short_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("recipe"), short_recipe)


@pytest.fixture(scope="module")
def oracle(
    recipe_path: Path,
    train_path: Path,
    bases: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """trainer=megatron in one process, by base."""
    found = {}
    for name, base in bases.items():
        out = tmp_path_factory.mktemp(f"oracle-{name}")
        assert megatron.main(words(recipe_path, train_path, base, out)) == 0
        found[name] = out
    return found


@pytest.fixture(scope="module")
def on_two_ranks(
    recipe_path: Path,
    train_path: Path,
    bases: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Every layout, by ranks that were started as aevo starts them."""
    folder = tmp_path_factory.mktemp("ranks")
    plan = [
        words(recipe_path, train_path, bases[base], folder / name, "--family", "super", *sizes)
        for name, (base, sizes) in LAYOUTS.items()
    ]
    (folder / "plan.json").write_text(json.dumps(plan))
    script = Path(__file__).with_name("bridge_ranks.py")
    process = start_ranks(2, str(script), str(folder / "plan.json"))
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said[-3000:]
    return {name: folder / name for name in LAYOUTS}


def tensors(out: Path, step: int = 12) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / f"step-{step:06d}" / "adapter_model.safetensors")


def test_losses_and_adapter_are_those_of_trainer_megatron(
    short_recipe: Recipe,
    train_path: Path,
    bases: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With every knob at a value of its own, and rows of unequal weight."""
    rows = [json.loads(line) for line in train_path.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["weight"] = (1.0, 0.3, 2.7)[number % 3]
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = written(
        tmp_path,
        short_recipe,
        learning_rate=2e-3,
        checkpoints=2,
        schedule={"shape": "wsd", "warmup": 0.3, "final": 0.1},
        optimizer={"weight_decay": 0.2, "clip": 0.7, "beta1": 0.8, "beta2": 0.95},
        lora={
            "rank": 6,
            "alpha": 9,
            "dropout": 0.0,
            "targets": ["in_proj", "out_proj", "down_proj"],
        },
        loss={"mask": "answer", "domain_weights": {}},
    )
    base = bases["nemotron_base"]
    monkeypatch.setenv("STANDIN_LOG", str(tmp_path / "settings.json"))
    assert bridge.main(words(recipe, data, base, tmp_path / "b", *ONE)) == 0
    assert megatron.main(words(recipe, data, base, tmp_path / "m")) == 0
    ours, theirs = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()]
        for name in ("b", "m")
    )
    for key in ("step", "tokens", "lr"):
        assert [line[key] for line in ours] == [line[key] for line in theirs]
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in ours] == pytest.approx(
            [line[key] for line in theirs], abs=SAME
        )
    for step in (6, 12):
        got, expected = tensors(tmp_path / "b", step), tensors(tmp_path / "m", step)
        assert got.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.allclose(got[name], tensor, atol=SAME), name
    configs = [
        json.loads((tmp_path / name / "checkpoints/step-000012/adapter_config.json").read_text())
        for name in ("b", "m")
    ]
    assert configs[0] == configs[1]
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("b", "m")]
    kept = [
        {
            key: result[key]
            for key in result
            if key not in ("trainer", "layout", "bridge_recipe", "seconds", "final_loss")
        }
        for result in results
    ]
    assert kept[0] == kept[1]
    assert results[0]["bridge_recipe"] == "nemotron_3_super_peft_config"
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["tokenizer"]["tokenizer_model"] == str(base)
    assert settings["dataset"]["seq_length"] == settings["model"]["seq_length"] == 128
    assert not settings["ddp"]["overlap_grad_reduce"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_give_what_one_process_gives(
    name: str, on_two_ranks: dict[str, Path], oracle: dict[str, Path], bases: dict[str, Path]
) -> None:
    """Over tensor parallelism Megatron-Bridge's own export of in_proj is wrong; ours is not. Over
    pipeline stages only the last knows the loss."""
    base = LAYOUTS[name][0]
    out = on_two_ranks[name]
    assert losses(out) == pytest.approx(losses(oracle[base]), abs=SAME)
    got, expected = tensors(out), tensors(oracle[base])
    assert got.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.allclose(got[key], tensor, atol=1e-3), key
    accepted = load_adapter(out / "checkpoints" / "step-000012", base_shapes(bases[base]))
    assert accepted.rank <= 32
    assert all(module.startswith("backbone.layers.") for module in accepted.pairs)


def test_killed_it_goes_on_with_the_same_losses(
    short_recipe: Recipe, train_path: Path, bases: dict[str, Path], tmp_path: Path
) -> None:
    """SIGKILL after Megatron-Bridge's first save, and a tracker cut off on top of it."""
    recipe = written(tmp_path, short_recipe, steps=24, checkpoints=3)
    base, out = bases["dense_base"], tmp_path / "out"
    arguments = words(recipe, train_path, base, out, *ONE)
    process = subprocess.Popen(
        [sys.executable, "-m", "train.bridge", *arguments],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=STANDIN,
        env=environment()
        | {"PYTHONPATH": os.pathsep.join((environment()["PYTHONPATH"], str(STANDIN)))},
    )
    tracker = out / "state" / "latest_checkpointed_iteration.txt"
    until(lambda: tracker.is_file() and tracker.read_text() == "10", 120)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = len((out / "metrics.jsonl").read_text().splitlines())
    assert 10 <= done < 24
    (out / "state" / "latest_train_state.pt").write_bytes(b"PK cut off")
    (out / "state" / "iter_0000020").mkdir(exist_ok=True)
    assert bridge.main(arguments) == 0
    assert megatron.main(words(recipe, train_path, base, tmp_path / "m")) == 0
    assert losses(out) == pytest.approx(losses(tmp_path / "m"), abs=SAME)
    result = json.loads((out / "result.json").read_text())
    assert result["resumed_from"] == [10] and result["steps"] == 24
    lines = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    assert result["tokens"] == sum(line["tokens"] for line in lines)
    before = (out / "metrics.jsonl").stat().st_mtime_ns
    assert bridge.main(arguments) == 0  # found done
    assert (out / "metrics.jsonl").stat().st_mtime_ns == before


def test_with_0_6_the_recipe_for_16_gpus_is_taken_and_its_environment(
    short_recipe: Recipe,
    train_path: Path,
    bases: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """0.6 has a module a machine beside those of 0.5.1, and variables in its configurations. What
    the process has been given already stays."""
    from megatron.bridge.recipes.nemotronh import nemotron_3_super as earlier

    package = "megatron.bridge.recipes.nemotronh.h100"
    module = ModuleType(f"{package}.nemotron_3_super")
    asked = []

    def nemotron_3_super_peft_16gpu_h100_bf16_config(peft_scheme: str = "lora") -> Any:
        asked.append(module.NEMOTRON_3_SUPER_HF_MODEL_ID)
        earlier.NEMOTRON_3_SUPER_HF_MODEL_ID = module.NEMOTRON_3_SUPER_HF_MODEL_ID
        config = earlier.nemotron_3_super_peft_config(peft_scheme)
        config.env_vars = {"NVLINK_DOMAIN_SIZE": 8, "USE_MNNVL": 0}
        return config

    recipe = nemotron_3_super_peft_16gpu_h100_bf16_config
    recipe.__module__ = module.__name__
    module.__dict__.update({recipe.__name__: recipe, "NEMOTRON_3_SUPER_HF_MODEL_ID": "hub"})
    monkeypatch.setitem(sys.modules, package, ModuleType(package))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("USE_MNNVL", "1")
    monkeypatch.setenv("NVLINK_DOMAIN_SIZE", "")  # so that it is put back
    monkeypatch.delenv("NVLINK_DOMAIN_SIZE")
    base = bases["dense_base"]
    path = written(tmp_path, short_recipe, steps=2, checkpoints=1)
    assert bridge.main(words(path, train_path, base, tmp_path / "out", *ONE)) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["bridge_recipe"] == recipe.__name__ and asked == [str(base)]
    assert (os.environ["NVLINK_DOMAIN_SIZE"], os.environ["USE_MNNVL"]) == ("8", "1")


def test_divergence_is_a_result_and_exit_status_3(
    short_recipe: Recipe,
    train_path: Path,
    bases: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [json.loads(line) | {"weight": 1e308} for line in train_path.open()]
    rows[0]["weight"] = 1.0
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = written(
        tmp_path,
        short_recipe,
        learning_rate=10.0,
        lora={"rank": 8, "alpha": 1024, "dropout": 0.0, "targets": "all"},
    )
    status = bridge.main(words(recipe, data, bases["dense_base"], tmp_path / "out", *ONE))
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (status, result["status"], result["final_loss"]) == (3, "diverged", None)
    assert "diverged at step" in capsys.readouterr().err
    last = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == result["steps"]


@pytest.mark.parametrize(
    ("arguments", "train", "reason"),
    [
        (("--tensor", "2", "--family", "super"), {}, "1 processes cannot be divided into tensor 2"),
        (("--base", "/no/where"), {}, "/no/where"),
        (("--data", "/no/where"), {}, "/no/where"),
        (("--family", "auto"), {}, "6 layers of 64 are none of nano 52 x 2688"),
        (("--family", "nano"), {}, "nemotron_3_nano_peft_config is for hidden_size = 2688"),
        (("--imported", "/no/where"), {}, "python -m train.nemo_bridge.imported --base"),
        (("--sequence", "16"), {}, "raise trainer.options.sequence"),
        ((), {"packing": True}, "train.packing: "),
        (("--micro-batch", "3"), {}, "train.batch_size = 8 is not a multiple"),
        (
            (),
            {"lora": {"rank": 8, "alpha": 8, "dropout": 0.0, "targets": ["q_proj"]}},
            "are one matrix",
        ),
    ],
)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...],
    train: dict[str, Any],
    reason: str,
    short_recipe: Recipe,
    train_path: Path,
    bases: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = written(tmp_path, short_recipe, **train)
    base = bases["nemotron_base"]
    assert bridge.main(words(recipe, train_path, base, tmp_path / "out", *ONE, *arguments)) == 2
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1
    assert said.startswith("train.bridge: ")
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_without_megatron_bridge_it_says_where_to_run(
    recipe_path: Path,
    train_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bridge.importlib.util, "find_spec", lambda name: None)
    assert bridge.main(words(recipe_path, train_path, tmp_path, tmp_path)) == 2
    assert "run it in NVIDIA's container" in capsys.readouterr().err
