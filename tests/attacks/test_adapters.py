"""Of an adapter's config, what was judged is what is used: every other field is refused or gone."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from aevo.evaluate.adapters import CONFIG, check_adapter, take_adapter
from aevo.evaluate.lora import BANNED, REQUIRED, check_ranks
from aevo.evaluate.untrusted import IntegrityError
from tests.evaluate.test_trusted_checks import BASE, adapter

KEPT = {
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "inference_mode",
    "r",
    "lora_alpha",
    "use_rslora",
    "lora_dropout",
    "bias",
    "init_lora_weights",
    "fan_in_fan_out",
    "target_modules",
}
# Fields that change what the tensors mean, with values that do.
OBEYED: dict[str, Any] = {
    "exclude_modules": ".*",
    "layers_to_transform": [0],
    "layers_pattern": "layers",
    "megatron_core": "os",
    "megatron_config": {"a": 1},
    "revision": "evil",
    "task_type": "SEQ_CLS",
    "lora_dropout": 0.9,
    "runtime_config": {"a": 1},
    "eva_config": {"rho": 2.0},
    "corda_config": {"a": 1},
    "loftq_config": {"loftq_bits": 4},
    "ensure_weight_tying": True,
    "base_model_name_or_path": "/etc",
    "inference_mode": False,
    "peft_version": "0",
    "any_other": {"x": [1]},
}


def kept(folder: Path, **config: Any) -> dict[str, Any]:
    """The config of the adapter as it is taken."""
    source = adapter(folder / "a", **config)
    take_adapter(source, folder / "kept", BASE)
    found: dict[str, Any] = json.loads((folder / "kept" / CONFIG).read_text())
    return found


@pytest.mark.parametrize("field", OBEYED)
def test_a_field_that_is_not_judged_is_not_kept(field: str, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    assert kept(tmp_path, **{field: OBEYED[field]}) == kept(tmp_path / "plain")


def test_every_field_of_peft_is_kept_refused_or_dropped(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    odd = {"a": 1}  # of no field the value
    for number, field in enumerate(dataclasses.fields(peft.LoraConfig)):
        folder = tmp_path / str(number)
        try:
            found = kept(folder, **{field.name: odd})
        except IntegrityError:
            assert field.name in {
                *REQUIRED,
                *BANNED,
                "r",
                "lora_alpha",
                "rank_pattern",
                "alpha_pattern",
            }
            continue
        assert set(found) <= KEPT and odd not in found.values(), field.name


@pytest.mark.parametrize(
    "how",
    [
        "pissa",
        "pissa_niter_16",
        "olora",
        "eva",
        "corda",
        "loftq",
        "anything",
        1,
        ["pissa"],
        {"a": 1},
    ],
)
def test_what_changes_the_base_at_load_is_refused(how: Any, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", init_lora_weights=how)
    for judge in (
        lambda: check_adapter(folder, BASE),
        lambda: take_adapter(folder, tmp_path / "kept", BASE),
    ):
        with pytest.raises(IntegrityError, match="init_lora_weights"):
            judge()
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("targets", [".*", "all-linear", "(a+)+$", None, "model.*q_proj"])
def test_targets_are_those_of_the_tensors(targets: Any, tmp_path: Path) -> None:
    found = kept(tmp_path, target_modules=targets)["target_modules"]
    assert isinstance(found, list) and all("*" not in name for name in found)
    assert found == kept(tmp_path / "b")["target_modules"]


@pytest.mark.parametrize(("alpha", "fits"), [(32.0, True), (16.0, False), (64.0, False)])
def test_a_rank_of_its_own_is_scaled_as_peft_scales_it(alpha: float, fits: bool) -> None:
    """With use_rslora over the root of each module's own rank, not over the rank."""
    config = {"use_rslora": True, "rank_pattern": {"q": 4}, "alpha_pattern": {"q": alpha}}
    if fits:
        assert check_ranks(config, 16, 16.0) == {"q": 4}
        return
    with pytest.raises(IntegrityError):
        check_ranks(config, 16, 16.0)
