"""What cannot work is refused before anything is submitted; what a lab would run is not."""

import json
from pathlib import Path

import pytest

from aevo.errors import ConfigError
from aevo.start.command import configured
from aevo.studies.scale.refusal import check
from tests.conftest import Cli

NANO, HF = ["cluster=h200", "model=nemotron3_nano_30b"], ["evaluator=hf"]
HALF, LONG = "evaluator.options.dtype=bfloat16", "evaluator.options.max_tokens=7680"


@pytest.mark.parametrize("model", ["nano_30b", "super_120b", "ultra_550b"])
def test_production_models_come_with_vllm_and_pass(model: str) -> None:
    config = configured(["cluster=h200", f"model=nemotron3_{model}"])
    check(config)
    assert config.evaluator.name == "vllm" and config.evaluator.options["max_tokens"] == 7680


def test_the_command_line_goes_before_the_models_choice() -> None:
    assert configured([*NANO, *HF]).evaluator.name == "hf"
    more = ["evaluator.options.max_tokens=4096", "evaluator.options.command=/v/python"]
    options = configured([*NANO, *more]).evaluator.options
    assert (options["max_tokens"], options["command"]) == (4096, "/v/python")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluator=auto"], r"fp32 .* 32B parameters .* 118 GiB .*-- evaluator=vllm"),
        ([*HF, LONG], r"evaluator=hf computes in fp32"),
        ([*HF, HALF], r"48 new tokens: .* thinks first .*-- .*max_tokens=7680"),
        (["evaluator.options.max_tokens=48"], r"evaluator=vllm ends answers after 48"),
        (
            ["model.train.memory_gb=32"],
            r"train asks for 32 GiB a node and needs 58.8 GiB .*-- give 74",
        ),
        (["cluster.train.memory_gb=32"], r"train asks for 32 GiB"),
        ([*HF, HALF, LONG, "model.evaluate.memory_gb=48"], r"evaluate asks for 48 GiB"),
    ],
)
def test_what_cannot_work_is_refused_with_the_mend(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check(configured([*NANO, *words]))
    assert "\n" not in str(caught.value)


def test_an_oracle_in_half_precision_is_let_through() -> None:
    check(configured([*NANO, *HF, HALF, LONG]))


@pytest.mark.parametrize(
    "words",
    [
        ["model=tiny"],
        ["model=tiny", "evaluator=hf"],
        ["model=smollm2_135m"],
        ["model=tiny_nemotron_h", "trainer=megatron"],
    ],
)
def test_small_models_are_let_through(words: list[str]) -> None:
    check(configured(words))


def test_the_template_says_whether_a_model_thinks(tmp_path: Path) -> None:
    shape = {
        "model_type": "llama",
        "hidden_size": 64,
        "vocab_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": 128,
    }
    (tmp_path / "config.json").write_text(json.dumps(shape))
    words = ["model=tiny", f"model.base={tmp_path}"]
    check(configured(words))
    (tmp_path / "chat_template.jinja").write_text("<|im_start|>assistant\n<think>\n")
    with pytest.raises(ConfigError, match="thinks first"):
        check(configured(words))


def test_commands_refuse_in_one_line(cli: Cli) -> None:
    done = cli.run(
        "round", "model=nemotron3_nano_30b", "evaluator=auto", "substrate=null", "dry_run=true"
    )
    assert done.returncode == ConfigError.code and done.stderr.count("\n") == 1, done.stderr
    assert "evaluator=vllm" in done.stderr


@pytest.mark.parametrize(
    ("words", "gib"),
    [
        ([], 192),
        (["model.train.gpus=8"], 1536),
        (["cluster.train.gpus=4"], 768),
        (["model.train.gpus=8", "model.train.memory_gb=500"], 500),
        (["model.train.gpus=8", "cluster.common.memory_gb=900"], 900),
    ],
)
def test_memory_follows_the_gpus(words: list[str], gib: float) -> None:
    config = configured([*NANO, *words])
    assert config.cluster.kind == "slurm"
    assert config.cluster.options("train", config.model.train).memory_gb == gib
