"""trainer= and evaluator=: which of a stack's own commands run, and what they are given."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from aevo.config.schema import Config, load
from aevo.config.trainer import EvaluatorSettings, TrainerSettings, placeholders
from aevo.errors import ConfigError, SubstrateError
from aevo.files.paths import Layout
from aevo.plan.graph import baseline_job, evaluation_job, training_job
from aevo.plan.setup import Setup
from aevo.records.job import JobSpec, Resources
from aevo.start.command import CONF
from aevo.substrate.frozen import DEFAULT, Substrate, open_substrate
from aevo.substrate.offered import check_choices
from tests.conftest import REGRESSION, Cli

PEFT, AUTO = TrainerSettings(name="peft"), EvaluatorSettings(name="auto")


@pytest.fixture
def stack() -> Substrate:
    return open_substrate(DEFAULT)


def configured(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load(compose("config", overrides=list(overrides)))


def setup_of(config: Config, stack: Substrate, folder: Path) -> Setup:
    return Setup(Layout(folder), "c", config, stack, "/base", None)


def training(config: Config, stack: Substrate, folder: Path) -> JobSpec:
    setup = setup_of(config, stack, folder)
    return training_job(setup, setup.layout.round(1).candidate("c00").run(1), 7)


def scoring(setup: Setup, folder: Path) -> JobSpec:
    return evaluation_job(setup, setup.layout.round(1).candidate("c00").run(1), {"a": folder})


def test_the_first_way_is_the_default(stack: Substrate, tmp_path: Path) -> None:
    values: dict[str, Any] = {"data": 1, "base": 2, "seed": 3, "out": 4, "threads": 5}
    values |= {"precision": "bf16", "recompute": "none"}
    step = stack.command("train", tmp_path, **values)
    assert step.argv[2] == "train.sft" and not step.distributed
    assert step == stack.command("train", tmp_path, variant="peft", **values)
    assert stack.variants("train") == ["peft", "megatron", "bridge", "nemo_rl"]
    assert stack.variants("export") == []


def test_the_layout_comes_from_the_configuration(stack: Substrate, tmp_path: Path) -> None:
    config = configured(
        "trainer=megatron",
        "trainer.processes=4",
        "trainer.nodes=2",
        "trainer.options.tensor=2",
        "trainer.options.precision=bf16",
    )
    job = training(config, stack, tmp_path)
    data, train = job.steps
    assert job.resources.ranks == 8
    assert train.distributed and train.confine is not None and train.confine.network
    assert data.confine is not None and not data.distributed and not data.confine.network
    words = " ".join(train.argv)
    assert "-m train.megatron --recipe recipe.yaml" in words
    assert "--tensor 2 --pipeline 1 --expert 1 --precision bf16 --micro-batch 0" in words


def test_peft_is_as_it_was(stack: Substrate, tmp_path: Path) -> None:
    job = training(configured(), stack, tmp_path)
    assert job.resources.ranks == 1 and not job.steps[1].distributed
    assert job.steps[1].confine is not None and not job.steps[1].confine.network


def test_the_evaluator_is_chosen(stack: Substrate, tmp_path: Path) -> None:
    config = configured("evaluator=hf")
    job = scoring(setup_of(config, stack, tmp_path), tmp_path)
    assert "--decoder hf --max-new 48 --dtype float32" in " ".join(job.steps[0].argv)


def test_vllm_gets_its_command_in_one_word_and_the_challenges_settings(
    stack: Substrate, tmp_path: Path
) -> None:
    config = configured(
        "evaluator=vllm",
        "evaluator.options.tensor_parallel=4",
        "evaluator.options.command='apptainer exec --nv vllm.sif python3'",
        'evaluator.options.extra=\'{"kv_cache_dtype": "fp8"}\'',
    )
    setup = setup_of(config, stack, tmp_path)
    argv = scoring(setup, tmp_path).steps[0].argv
    assert argv[argv.index("--command") + 1] == "apptainer exec --nv vllm.sif python3"
    assert argv[argv.index("--max-new") + 1] == "7680"
    engine = [argv[i + 1] for i, word in enumerate(argv) if word == "--engine"]
    assert engine == [
        "max_model_len=8192",
        "max_num_seqs=0",
        "max_lora_rank=32",
        "max_loras=1",
        "gpu_memory_utilization=0.85",
        "tensor_parallel=4",
        "shards=0",
        "dtype=auto",
        "prefix_caching=auto",
        "chunked_prefill=true",
        "enforce_eager=false",
        'extra={"kv_cache_dtype": "fp8"}',
    ]
    assert argv[-2:] == ["--adapter", f"a={tmp_path}"]
    base = baseline_job(setup, "code")
    assert base.steps[0].argv[-1] == "--include-base"
    assert base.steps[0].argv[:-1] == [*argv[:8], str(setup.layout.baseline), *argv[9:-2]]


def test_null_leaves_the_models_own_needs() -> None:
    asked = Resources(nodes=2, tasks_per_node=8)
    assert PEFT.over(asked) == asked
    assert TrainerSettings(name="x", processes=4).over(asked).ranks == 8


def test_booleans_are_written_as_in_yaml() -> None:
    chosen = EvaluatorSettings(name="x", options={"on": True, "n": 2})
    assert placeholders(chosen) == {"on": "true", "n": 2}


@pytest.mark.parametrize(
    ("trainer", "evaluator", "reason"),
    [
        (TrainerSettings(name="trl"), AUTO, "trainer=trl: .*has `train` as peft, megatron"),
        (PEFT, EvaluatorSettings(name="none"), "evaluator=none: .*has `evaluate` as auto, hf"),
    ],
)
def test_what_the_stack_does_not_offer_is_refused(
    trainer: TrainerSettings, evaluator: EvaluatorSettings, reason: str, stack: Substrate
) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_choices(stack, trainer, evaluator, Resources())


def test_a_trainer_of_one_process_is_refused_for_a_model_of_several_nodes(stack: Substrate) -> None:
    needs = configured("model=nemotron3_super_120b").model.train
    with pytest.raises(ConfigError, match=r"trainer=peft is one process, .* asks for 16 ranks"):
        check_choices(stack, PEFT, AUTO, needs)
    check_choices(stack, configured("trainer=bridge").trainer, AUTO, needs)


@pytest.mark.parametrize(
    ("model", "nodes"), [("nemotron3_super_120b", 2), ("nemotron3_ultra_550b", 4)]
)
def test_large_models_choose_the_bridge_and_the_command_line_has_the_last_word(
    model: str, nodes: int, stack: Substrate, tmp_path: Path
) -> None:
    config = configured(f"model={model}")
    job = training(config, stack, tmp_path)
    assert config.trainer.name == "bridge"
    assert (job.resources.nodes, job.resources.ranks) == (nodes, 8 * nodes)
    assert job.steps[1].distributed and "train.bridge" in job.steps[1].argv
    assert configured(f"model={model}", "trainer=peft").trainer.name == "peft"


def test_nemo_rl_starts_one_process_a_node_with_all_of_its_gpus(
    stack: Substrate, tmp_path: Path
) -> None:
    """They are Ray's head and its workers."""
    config = configured("model=nemotron3_nano_30b", "trainer=nemo_rl", "model.train.gpus=8")
    job = training(config, stack, tmp_path)
    wanted = job.resources
    assert (wanted.nodes, wanted.tasks_per_node, wanted.gpus) == (2, 1, 8)
    step = job.steps[1]
    assert step.distributed and "train.nemo_rl" in step.argv
    assert "--home /opt/nemo-rl --family auto --gpus 0" in " ".join(step.argv)


def test_a_stack_with_one_trainer_takes_no_layout() -> None:
    regression = open_substrate(REGRESSION)
    check_choices(regression, PEFT, AUTO, Resources())
    with pytest.raises(ConfigError, match="has one `train`, which takes no options"):
        check_choices(regression, configured("trainer=megatron").trainer, AUTO, Resources())


def test_an_unknown_way_is_named(stack: Substrate, tmp_path: Path) -> None:
    with pytest.raises(SubstrateError, match="no `train` named trl"):
        stack.command("train", tmp_path, variant="trl")


def test_a_wrong_choice_ends_the_command_in_one_line(cli: Cli) -> None:
    done = cli.run("round", "trainer=megatron")
    assert done.returncode == ConfigError.code
    assert done.stderr.count("\n") == 1 and "takes no options" in done.stderr
