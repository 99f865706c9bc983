"""Scale sheets: counts against published ones, layouts that are known to fit, and the command.

What torch itself says of the small models is in tests/stack/test_scale_sizes.py.
"""

import functools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from aevo.errors import ConfigError
from aevo.scale import ScaleError, configured, main
from aevo.studies.scale import cost, memory, published, sheet, steptime, storage
from aevo.studies.scale.adapter import Adapter, by_target, leaves
from aevo.studies.scale.architecture import active, known, parameters
from aevo.studies.scale.assumptions import Assumptions
from aevo.studies.scale.hardware import GPUS
from aevo.studies.scale.hf_config import read
from aevo.studies.scale.sheet import Sheet
from tests.conftest import REPO

ASSUMED = Assumptions()
LARGE = ("nemotron3_nano_30b", "nemotron3_super_120b", "nemotron3_ultra_550b")


@functools.cache
def made(words: str) -> Sheet:
    """The sheet of a command line, from what ships alone."""
    own, config = configured(words.split())
    return sheet.of(config, own, files=False)


def test_document_is_what_the_command_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["write", str(tmp_path / "scale.md")])
    assert (REPO / "docs" / "scale.md").read_text() == (tmp_path / "scale.md").read_text(), (
        "run `python -m aevo.scale write docs/scale.md`"
    )
    assert capsys.readouterr().out == f"wrote {tmp_path}/scale.md\n"


def test_document_keeps_its_line_length() -> None:
    lines = (REPO / "docs" / "scale.md").read_text().splitlines()
    assert max(len(line) for line in lines if not line.startswith("|")) <= 110


def test_counts_are_the_published_ones() -> None:
    """Of verification cards of Megatron-Bridge: elements of all tensors, bytes of an export."""
    nano, large, ultra = map(known, LARGE)
    assert parameters(nano) == 31_577_940_288
    assert parameters(published.lightning(), mtp=True) == 32_913_266_240
    assert parameters(large, mtp=True) == 123_611_033_088
    assert storage.base_bytes(large) == 247_222_108_160
    assert parameters(ultra) == pytest.approx(550e9, rel=0.01)
    for model, billions in ((nano, 3.5), (large, 12.0), (ultra, 55.0)):
        assert active(model) == pytest.approx(billions * 1e9, rel=0.07)
    assert active(nano, embeddings=False) < active(nano)


def test_lora_parameters_are_those_that_participants_counted() -> None:
    """shared experts 9.4M, routed 856M, Mamba 14.6M, attention 3.7M, lm_head 4.3M at rank 32."""
    found = {
        group: round(count / 1e6, 1) for group, count in by_target(known(LARGE[0]), 32).items()
    }
    assert found == {
        "mamba": 14.6,
        "routed experts": 856.2,
        "shared experts": 9.4,
        "attention": 3.7,
        "lm_head": 4.3,
    }


def test_an_official_adapter_has_as_many_tensors_as_its_card_says() -> None:
    assert (
        published.lora_on(known("nemotron3_super_120b")).tensors(known("nemotron3_super_120b"))
        == 82_304
    )


def test_flops_are_those_of_published_throughputs() -> None:
    for run in published.throughputs():
        assert run.estimate() == pytest.approx(run.tflops, rel=0.02), run.what


def test_step_times_come_within_35_percent_of_published_runs() -> None:
    ratios = [run.estimate(ASSUMED).seconds / run.seconds for run in published.lora_runs()]
    assert all(0.65 < ratio < 1.35 for ratio in ratios)
    assert 0.95 < (ratios[0] * ratios[1] * ratios[2]) ** (1 / 3) < 1.05


def test_layouts_that_ran_on_80_gb_fit_there_and_one_gpu_does_not() -> None:
    room = GPUS["h100"].memory
    for run in published.lora_runs():
        assert memory.of(run.model, run.layout, ASSUMED).total < room, run.what
    last = published.lora_runs()[-1]
    alone = replace(last.layout, tensor=1, expert=1, ranks=1, nodes=1)
    assert memory.of(last.model, alone, ASSUMED).total > GPUS["h200"].memory


def test_memory_is_divided_as_the_layout_says() -> None:
    model = known("nemotron3_super_120b")
    layout = published.lora_runs()[-1].layout
    wide = memory.of(model, layout, ASSUMED)
    narrow = memory.of(model, replace(layout, tensor=4), ASSUMED)
    assert wide.weights < narrow.weights < 2 * wide.weights  # experts are divided apart
    assert narrow.logits == pytest.approx(2 * wide.logits)
    longer = memory.of(model, replace(layout, row_tokens=2 * layout.row_tokens), ASSUMED)
    assert longer.activations == pytest.approx(2 * wide.activations)
    assert longer.weights == wide.weights
    kept = memory.of(model, replace(layout, recompute=frozenset({"moe"})), ASSUMED)
    assert kept.activations < wide.activations
    steps = (
        steptime.step_flops(model, layout),
        steptime.step_flops(model, replace(layout, recompute=frozenset({"moe"}))),
    )
    assert steps[0] < steps[1] < 1.5 * steps[0]


def test_ranks_of_all_stages_together_hold_the_model_once() -> None:
    model = known("nemotron3_ultra_550b")
    layout = replace(published.lora_runs()[-1].layout, pipeline=4, tensor=1, expert=1, mtp=False)
    held = sum(weight.parameters for stage in layout.stages(model) for weight in stage)
    assert held == parameters(model)


@pytest.mark.parametrize("name", LARGE)
def test_production_models_as_configured_fit_their_gpus(name: str) -> None:
    found = made(f"cluster=h200 model={name}")
    assert found.gpu is not None and found.memory.total < found.gpu.memory
    assert found.layout.problems == ()


def test_what_does_not_fit_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cluster=h200", "model=nemotron3_nano_30b", "trainer=peft"]
    main(words)
    assert "does not fit" in capsys.readouterr().out
    with pytest.raises(ScaleError, match="training does not fit") as caught:
        main([*words, "check=true"])
    assert caught.value.code == 7
    main(["cluster=h200", "model=nemotron3_nano_30b", "check=true"])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            "trainer.options.expert=7 trainer.processes=7 model.train.gpus=7",
            "expert 7 does not divide 128 experts",
        ),
        ("trainer.options.tensor=3 trainer.processes=8 model.train.gpus=8", "cannot be divided"),
        ("trainer.processes=2", "2 ranks for 1 GPU"),
        ("trainer.options.pipeline=8 trainer.processes=8 model.train.gpus=8", "does not divide 52"),
        ("row_tokens=16384 trainer.options.recompute=none", "training does not fit"),
        ("model.train.memory_gb=32", "host memory: 58.8 GiB"),
        ("model.train.time_min=1 cluster.resumes=0", "train: "),
        ("+model.train.disk_gb=0.1", "disk: a run leaves 156 MB"),
    ],
)
def test_problems_are_named(words: str, problem: str) -> None:
    found = made(f"cluster=h200 model=nemotron3_nano_30b {words}")
    assert any(problem in item for item in found.problems), found.problems


def test_idle_gpus_are_noted() -> None:
    found = made("cluster=h200 model=nemotron3_nano_30b model.train.gpus=8")
    assert "7 of the training's 8 GPUs idle: 1 rank(s)" in found.notes


def test_stages_that_wait_are_noted() -> None:
    few = made("cluster=h200 model=nemotron3_ultra_550b")
    assert any("pipeline stages wait 43 %" in item for item in few.notes)
    many = made("cluster=h200 model=nemotron3_ultra_550b model.recipe.train.batch_size=128")
    assert not any("wait" in item for item in many.notes)


def test_an_adapter_that_aevo_would_refuse_is_a_problem() -> None:
    found = made("cluster=h200 model=nemotron3_ultra_550b +model.recipe.train.lora.rank=1024")
    assert any(item.startswith("adapter of ") for item in found.problems)


def test_round_counts_the_trainings_of_its_budget() -> None:
    words = "cluster=h200 model=nemotron3_nano_30b worker.n=5 worker.anchor_seeds=3"
    found = made(f"{words} worker.trainings=4").round
    assert found is not None and (found.trainings, found.most) == (3 + 4, 3 + 4 * 4)
    each = found.training.gpu_hours + found.evaluation.gpu_hours
    assert found.gpu_hours(7) == pytest.approx(7 * each + found.leaderboard.gpu_hours)
    outside = made(f"{words} leaderboard=file").round
    assert outside is not None and outside.submissions == 0
    assert outside.gpu_hours(7) == pytest.approx(7 * each)


def test_cost_follows_the_recipe_and_the_cluster() -> None:
    base = "cluster=h200 model=nemotron3_nano_30b"
    one, double = made(base), made(f"{base} +model.recipe.train.steps=400")
    assert one.step is not None and one.round is not None and double.round is not None
    more = double.round.training.seconds - one.round.training.seconds
    assert more == pytest.approx(200 * one.step.seconds)
    wide = made(f"{base} trainer.processes=8 model.train.gpus=8 trainer.options.expert=8")
    assert wide.step is not None and wide.step.seconds < one.step.seconds / 4
    assert wide.round is not None and isinstance(wide.round.training, cost.Job)
    assert wide.round.training.gpus == 8


def test_h100_is_found_in_what_the_cluster_asks_for() -> None:
    words = "cluster=h200 model=nemotron3_nano_30b"
    assert made(words).gpu == GPUS["h200"]
    assert made(f"{words} cluster.train.gres='gpu:h100:1'").gpu == GPUS["h100"]
    assert made(f"{words} gpu=h100").gpu == GPUS["h100"]
    with pytest.raises(ConfigError, match="gpu=b300"):
        made(f"{words} gpu=b300")


def test_architecture_is_read_from_a_checkpoint_at_hand(tmp_path: Path) -> None:
    """In the hub's spelling, which names the pattern as a string."""
    config = {
        "model_type": "nemotron_h",
        "hidden_size": 4096,
        "vocab_size": 131072,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "hybrid_override_pattern": known(LARGE[1]).pattern,
        "num_nextn_predict_layers": 1,
        "mtp_hybrid_override_pattern": "*E",
        "mamba_num_heads": 128,
        "n_routed_experts": 512,
        "num_experts_per_tok": 22,
        "moe_intermediate_size": 2688,
        "moe_latent_size": 1024,
        "moe_shared_expert_intermediate_size": 5376,
        "torch_dtype": "bfloat16",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert parameters(read(tmp_path), mtp=True) == 123_611_033_088
    _, chosen = configured(["model=nemotron3_nano_30b", f"model.base={tmp_path}"])
    assert sheet.find(chosen).hidden == 4096
    assert sheet.find(chosen, files=False).hidden == 2688
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    with pytest.raises(ConfigError, match="model_type mamba"):
        sheet.find(chosen)


def test_evaluation_follows_the_engines_of_vllm() -> None:
    words = "cluster=h200 model=nemotron3_super_120b evaluator=vllm"
    alone = made(words)
    assert any("evaluation does not fit" in item for item in alone.problems)
    four, eight = (made(f"{words} evaluator.options.tensor_parallel={size}") for size in (4, 8))
    assert four.evaluates and eight.evaluates
    assert four.evaluation is not None and eight.evaluation is not None
    assert four.evaluation.memory > eight.evaluation.memory
    assert four.evaluation.used == eight.evaluation.used == 8
    assert four.evaluation.answer == 2048
    assert not any("ends answers" in item for item in four.notes)
    short = made(f"{words} evaluator.options.tensor_parallel=8 evaluator.options.max_tokens=512")
    assert short.evaluation is not None and short.evaluation.per_item < eight.evaluation.per_item
    assert any("ends answers after 512" in item for item in short.notes)


def test_targets_as_the_recipe_names_them() -> None:
    model = known(LARGE[0])
    assert leaves(["out_proj", "gate_proj"], model) == {"out_proj"}
    assert "out_proj" not in leaves("all", model)
    everything = Adapter(32, leaves("all", model) | {"out_proj"}, routed=True)
    assert everything.parameters(model) == sum(
        count for group, count in by_target(model, 32).items() if group != "lm_head"
    )


def command(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "aevo.scale", *words],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=REPO,
    )


def test_a_mistake_is_one_line() -> None:
    done = command("cluster=h200", "model=nemotron3_nano_30b", "trainer=peft", "check=true")
    assert done.returncode == 7 and "| in all |" in done.stdout
    assert done.stderr.startswith("error: nemotron3_nano_30b: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["imbalance=0.5"], "imbalance"),
        (["model=nothing"], "nothing"),
        (["trainer.option.tensor=8"], "option"),
        (["write"], "write takes one file"),
        (["write", "a.md", "model=tiny"], "write takes one file"),
    ],
)
def test_wrong_words_are_refused(words: list[str], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        main(words)


def test_a_model_without_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match="ships for it"):
        main(["model=smollm2_135m", "model.base=/nowhere"])


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert "python -m aevo.scale write" in capsys.readouterr().out
