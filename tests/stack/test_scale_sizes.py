"""The sheets' figures for the small models against torch: weights, adapters, files that trainings
wrote, and what layers really keep for their backward pass."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from base.nemotron import make
from eval.adapter import base_shapes
from train.batching import Batch
from train.targets import TargetError, resolve

from aevo.studies.scale import memory, storage
from aevo.studies.scale.adapter import Adapter, leaves
from aevo.studies.scale.architecture import Architecture, known, layer, parameters, weights
from aevo.studies.scale.assumptions import Assumptions
from aevo.studies.scale.hf_config import read
from aevo.studies.scale.parallel import BRIDGE, Division

LORA: dict[str, Any] = {"rank": 8, "alpha": 16, "dropout": 0.0, "targets": "all"}
ROWS, LENGTH = 8, 64


def alone(model: Architecture, trainer: str) -> Division:
    """One process, fp32, as both trainers have it on CPU."""
    return Division(
        trainer=trainer,
        nodes=1,
        gpus=0,
        ranks=1,
        tensor=1,
        pipeline=1,
        expert=1,
        rows=ROWS,
        micro_rows=ROWS,
        row_tokens=LENGTH,
        number_bytes=4,
        adapter=Adapter(8, leaves("all", model), fused=trainer == "megatron"),
    )


@pytest.mark.parametrize("name", ["tiny", "tiny_nemotron_h"])
def test_architecture_has_every_weight_of_the_checkpoint(
    name: str, tiny_base: Path, nemotron_base: Path
) -> None:
    from transformers import AutoModelForCausalLM

    base = tiny_base if name == "tiny" else nemotron_base
    model = AutoModelForCausalLM.from_pretrained(base)
    biases = [value for key, value in model.named_buffers() if "correction_bias" in key]
    built = sum(p.numel() for p in [*model.parameters(), *biases])
    assert parameters(read(base)) == parameters(known(name)) == built
    stored = sum(torch.Size(shape).numel() for shape in base_shapes(base).values())
    assert stored == built


def test_shipped_architectures_are_those_of_the_checkpoints(
    tiny_base: Path, nemotron_base: Path
) -> None:
    for name, base in (("tiny", tiny_base), ("tiny_nemotron_h", nemotron_base)):
        both = (known(name), read(base))
        assert (
            len(
                {
                    item.model_copy(update={"name": "", "source": ""}).model_dump_json()
                    for item in both
                }
            )
            == 1
        )


@pytest.mark.parametrize(
    "wanted",
    [
        "all",
        "attention",
        "mlp",
        "mamba",
        "lm_head",
        ["in_proj", "o_proj"],
        ["all", "shared_experts", "experts", "lm_head"],
    ],
)
def test_targets_are_the_trainers_own(wanted: str | list[str]) -> None:
    for name, kind in (("tiny", "llama"), ("tiny_nemotron_h", "nemotron_h")):
        model = known(name)
        present = {item.leaf for item in weights(model) if item.leaf}
        inner = {"shared experts": "shared_experts.", "routed experts": "experts."}
        present |= {
            inner[item.group] + item.leaf
            for item in weights(model)
            if item.group in inner and item.leaf
        }
        try:
            expected = set(resolve(wanted, present, kind))
        except TargetError:  # not in this model
            continue
        assert leaves(wanted, model) == {
            name for name in expected if not name.startswith("experts.")
        }


def test_what_the_sheets_take_from_the_trainers_is_what_they_do() -> None:
    pytest.importorskip("train.nemo_bridge.overrides")
    from train import loop
    from train.nemo_bridge import family as families
    from train.nemo_bridge import overrides

    assert {family.shape[1]: family.layout for family in families.FAMILIES.values()} == {
        hidden: (tensor, pipeline, expert)
        for hidden, (tensor, pipeline, expert, _) in BRIDGE.items()
    }
    for name, family in families.FAMILIES.items():
        size = {"nano": "30b", "super": "120b", "ultra": "550b"}[name]
        model = known(f"nemotron3_{name}_{size}")
        assert family.shape == (len(model.pattern), model.hidden)
    train = {
        "steps": 5,
        "batch_size": 4,
        "learning_rate": 1e-4,
        "lora": LORA,
        "optimizer": {"weight_decay": 0.0, "clip": 1.0, "beta1": 0.9, "beta2": 0.99},
    }
    here = Path("x")
    set_there = overrides.overrides(
        train,
        families.Layout(1, 1, 8, 4096, 1, 8),
        length=128,
        seed=1,
        base=here,
        imported=here,
        state=here,
        targets=["*"],
    )
    assert set_there["model.mtp_num_layers"] == 0
    assert set_there["checkpoint.save_interval"] == storage.BRIDGE_STEPS
    assert set_there["checkpoint.most_recent_k"] == storage.BRIDGE_STATES
    assert not any("recompute" in key for key in set_there)
    assert (storage.STATE_STEPS, storage.STATE_SECONDS) == (loop.STATE_STEPS, loop.STATE_SECONDS)
    reached = overrides.patterns(["linear_fc1", "linear_fc2"])
    assert not any(".experts." in place for place in reached)


def check_run(out: Path, model: Architecture, layout: Division, state: int) -> None:
    """A run's adapter has the parameters of the sheet; files come near it."""
    result = json.loads((out / "result.json").read_text())
    sizes = storage.of(model, layout, {"steps": 2, "checkpoints": 1}, None)
    assert sizes.trained == result["trainable_parameters"]
    written = (out / result["checkpoints"][-1]["path"] / "adapter_model.safetensors").stat().st_size
    assert sizes.adapter == pytest.approx(written, rel=0.02)
    # What a file has besides is a few kB a tensor, and the generator's state.
    tensors = 3 * layout.adapter.tensors(model)
    assert sizes.state < state < sizes.state + 2048 * tensors + 16_384


@pytest.fixture(scope="module")
def two_steps(small_recipe: dict[str, Any]) -> dict[str, Any]:
    recipe: dict[str, Any] = yaml.safe_load(yaml.safe_dump(small_recipe))
    recipe["train"] |= {"steps": 2, "batch_size": 4, "checkpoints": 1, "lora": LORA}
    return recipe


def test_files_of_a_peft_training(
    two_steps: dict[str, Any], train_path: Path, tiny_base: Path, tmp_path: Path
) -> None:
    from train.peft_backend import execute
    from train.run import Run

    execute(Run(two_steps, train_path, tiny_base, tmp_path, seed=7, threads=1))
    model = known("tiny")
    check_run(
        tmp_path, model, alone(model, "peft"), (tmp_path / "state" / "state.pt").stat().st_size
    )


def test_files_of_a_megatron_training(
    two_steps: dict[str, Any], train_path: Path, nemotron_base: Path, tmp_path: Path, one_rank: None
) -> None:
    from tests.stack.mcore_support import run_here

    run_here(two_steps, train_path, nemotron_base, tmp_path)
    model = known("tiny_nemotron_h")
    folder = next((tmp_path / "state").glob("step-*"))
    check_run(
        tmp_path,
        model,
        alone(model, "megatron"),
        sum(path.stat().st_size for path in folder.glob("*.distcp")),
    )


@pytest.fixture
def one_rank() -> Any:
    """This process as megatron's only rank."""
    pytest.importorskip("megatron.core")
    from train.mcore import layout

    layout.start(layout.Layout())
    yield
    layout.stop()


def kept(frozen: list[torch.Tensor], forward: Callable[[], torch.Tensor]) -> int:
    """Bytes of different tensors that autograd keeps of a forward pass, weights left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in frozen}
    found: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held = tensor.untyped_storage()
        if held.data_ptr() not in own:
            found[held.data_ptr()] = held
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(held.nbytes() for held in found.values())


def some_batch() -> Batch:
    ids = torch.randint(5, 1000, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    return Batch(ids, ids.clone(), torch.ones(ROWS, LENGTH), None, None, ids.numel())


def peft_keeps(base: Path) -> int:
    from train import model

    built = model.load(base, LORA, 1, "cpu")
    return kept([*built.parameters(), *built.buffers()], lambda: model.loss(built, some_batch()))


def megatron_keeps(base: Path) -> int:
    from train.mcore import layout, lora, model, pipeline
    from train.mcore import weights as loader

    config = model.read_config(base)
    built = model.build(config, layout.Layout())
    loader.load(built, config, base)
    lora.inject(built, config, LORA, 7)
    part = pipeline.split(some_batch(), layout.Layout(), torch.device("cpu"))[0][0]
    return kept(
        [*built.parameters(), *built.buffers()],
        lambda: model.token_losses(
            built, model.hidden(built, part.ids, None), part.targets, part.at
        ).sum(),
    )


@pytest.mark.parametrize("pattern", ["****", "----", "EEEE"])
def test_layers_keep_what_the_sheet_says(pattern: str, tmp_path: Path, one_rank: None) -> None:
    """Four layers of a kind, of which the loss's own share is taken off. Mamba layers are left out:
    on CPU both trainers scan in plain torch, which the sheets do not assume."""
    base = tmp_path / "base"
    make(base, pattern)
    model = read(base)
    loss = ROWS * LENGTH * model.vocab * 4
    for trainer, keeps in (("peft", peft_keeps), ("megatron", megatron_keeps)):
        found = memory.of(model, alone(model, trainer), Assumptions()).activations
        assert found == pytest.approx(keeps(base) - loss, rel=0.25), trainer


def test_a_gated_model_keeps_what_the_sheet_says(tiny_base: Path) -> None:
    model = known("tiny")
    loss = ROWS * LENGTH * model.vocab * 4
    found = memory.of(model, alone(model, "peft"), Assumptions()).activations
    assert found == pytest.approx(peft_keeps(tiny_base) - loss, rel=0.25)


def test_adapter_is_the_one_peft_makes(nemotron_base: Path) -> None:
    from train.model import load, trainable

    made = trainable(load(nemotron_base, LORA, 1, "cpu"))
    model = known("tiny_nemotron_h")
    own = Adapter(8, leaves("all", model))
    assert own.parameters(model) == sum(tensor.numel() for tensor in made.values())
    assert own.tensors(model) == len(made)
    assert sum(item.count for item in layer(model, "E") if own.on(item)) == 2
