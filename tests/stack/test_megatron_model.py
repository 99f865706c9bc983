"""trainer=megatron computes the model that transformers computes, and refuses what it cannot."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("megatron.core", reason="megatron-core is not installed")

import torch
import torch.nn.functional as F
from eval.hf import open_model
from torch import Tensor
from train.mcore import layout, mixer, model
from train.mcore.layout import Layout, LayoutError
from train.mcore.ssd import causal_conv, scan
from train.peft_format import ModelError
from transformers import AutoModelForCausalLM

from tests.stack.mcore_support import built, one_rank, tokens

__all__ = ["one_rank"]

CLOSE = 1e-5  # between mcore and transformers, absolute, on logits of size 1 to 10


@pytest.mark.parametrize("chunk", [5, 16, 64])
@pytest.mark.parametrize("packed", [False, True])
def test_the_chunked_scan_is_the_recurrence(chunk: int, packed: bool) -> None:
    torch.manual_seed(0)
    rows, length, heads, width, groups, state = 2, 37, 4, 8, 2, 5
    x, dt = torch.randn(rows, length, heads, width), torch.rand(rows, length, heads) * 0.5
    decay = -torch.rand(heads) * 4 - 1
    b, c = torch.randn(2, rows, length, groups, state)
    segments = torch.tensor([[0] * 3 + [1] * 14 + [2] * 20, [0] * 16 + [1] * 9 + [-1] * 12])
    expected = torch.zeros_like(x)
    per = heads // groups
    for row in range(rows):
        carried = torch.zeros(heads, width, state)
        for t in range(length):
            if packed and t and segments[row, t] != segments[row, t - 1]:
                carried = torch.zeros_like(carried)
            into = dt[row, t][:, None] * x[row, t]
            carried = (
                carried * (dt[row, t] * decay).exp()[:, None, None]
                + into[..., None] * b[row, t].repeat_interleave(per, 0)[:, None]
            )
            expected[row, t] = (carried * c[row, t].repeat_interleave(per, 0)[:, None]).sum(-1)
    found = scan(x, dt, decay, b, c, chunk, segments if packed else None)
    assert torch.allclose(found, expected, atol=CLOSE)


def test_the_convolution_does_not_cross_a_boundary() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, 12, 6), torch.randn(6, 4), torch.randn(6)

    def alone(part: Tensor) -> Tensor:
        padded = F.pad(part.transpose(1, 2), (3, 0))
        return F.conv1d(padded, weight[:, None], bias, groups=6).transpose(1, 2)

    assert torch.allclose(causal_conv(x, weight, bias, None), alone(x), atol=1e-6)
    segments = torch.tensor([[0] * 5 + [1] * 7])
    apart = torch.cat([alone(x[:, :5]), alone(x[:, 5:])], 1)
    assert torch.allclose(causal_conv(x, weight, bias, segments), apart, atol=1e-6)


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("which", ["nemotron_base", "dense_base"])
def test_logits_are_those_of_transformers(which: str, request: pytest.FixtureRequest) -> None:
    base: Path = request.getfixturevalue(which)
    ids = tokens()
    with torch.no_grad():
        theirs = open_model(base, torch.float32).eval()(ids).logits
    network, _ = built(base)
    ours = model.logits(network, ids)
    assert theirs.abs().max() > 1
    assert (ours - theirs).abs().max() < CLOSE


@pytest.mark.usefixtures("one_rank")
def test_transformers_clamps_the_time_step_and_open_model_does_not(
    nemotron_base: Path, tmp_path: Path
) -> None:
    """Pitfall: transformers clamps dt at time_step_min, which is only for initialisation."""
    base = tmp_path / "clamped"
    shutil.copytree(nemotron_base, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"time_step_min": 0.05}))
    ids = tokens()
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(base).eval()(ids).logits
        opened = open_model(base, torch.float32).eval()(ids).logits
    ours = model.logits(built(base)[0], ids)
    assert (ours - plain).abs().max() > 100 * CLOSE
    assert (ours - opened).abs().max() < CLOSE


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Any) -> None:
    """A package of that name, with its parents, that holds these functions."""
    for end in range(1, name.count(".") + 2):
        parent = ".".join(name.split(".")[:end])
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    vars(sys.modules[name]).update(functions)


def combined(
    x: Tensor,
    dt: Tensor,
    decay: Tensor,
    b: Tensor,
    c: Tensor,
    chunk: int,
    *,
    D: Tensor,
    dt_bias: Tensor,
    dt_softplus: bool,
    seq_idx: Tensor | None,
) -> Tensor:
    """mamba_ssm's function of that signature, by our own scan."""
    assert dt_softplus
    y = scan(x, F.softplus(dt + dt_bias), decay, b, c, chunk, seq_idx)
    return y + D[:, None] * x


def convolved(
    x: Tensor, weight: Tensor, bias: Tensor, *, seq_idx: Tensor | None, activation: str
) -> Tensor:
    """causal_conv1d's function of that signature: channels before length."""
    assert activation == "silu"
    return F.silu(causal_conv(x.transpose(1, 2), weight, bias, seq_idx)).transpose(1, 2)


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("scanned", [False, True])
@pytest.mark.parametrize("convolving", [False, True])
def test_each_mamba_kernel_is_used_without_the_other(
    scanned: bool, convolving: bool, nemotron_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall: without causal-conv1d mamba_ssm's scan, which does not need it, was not used."""
    network, _ = built(nemotron_base)
    ids = tokens()
    expected = model.logits(network, ids)
    if scanned:
        stand_in(
            monkeypatch, "mamba_ssm.ops.triton.ssd_combined", mamba_chunk_scan_combined=combined
        )
    if convolving:
        stand_in(monkeypatch, "causal_conv1d", causal_conv1d_fn=convolved)
    found = mixer.kernels.__wrapped__("cuda")
    assert found.names == {
        "scan": "mamba_ssm" if scanned else "torch",
        "convolution": "causal_conv1d" if convolving else "torch",
    }
    monkeypatch.setattr(mixer, "kernels", lambda _: found)
    assert (model.logits(network, ids) - expected).abs().max() < CLOSE


@pytest.mark.usefixtures("one_rank")
def test_packed_sequences_are_as_if_alone(nemotron_base: Path) -> None:
    network, _ = built(nemotron_base)
    ids = tokens(1, 90)
    cuts = [0, 37, 50, 90]
    segments = torch.zeros_like(ids)
    for number, (begin, end) in enumerate(itertools.pairwise(cuts)):
        segments[:, begin:end] = number
    packed = model.logits(network, ids, segments)
    apart = torch.cat([model.logits(network, ids[:, a:b]) for a, b in itertools.pairwise(cuts)], 1)
    assert (packed - apart).abs().max() < CLOSE
    mixed = model.logits(network, ids)
    assert (mixed - apart).abs().max() > 100 * CLOSE


@pytest.mark.usefixtures("one_rank")
def test_losses_are_those_of_the_whole_vocabulary(nemotron_base: Path) -> None:
    network, _ = built(nemotron_base)
    ids = tokens()
    targets = ids.roll(-1, 1).reshape(-1)
    at = torch.tensor([0, 5, 68, 69, 150])
    with torch.no_grad():
        found = model.token_losses(network, model.hidden(network, ids, None), targets[at], at)
    logits = model.logits(network, ids).flatten(0, 1)[at]
    expected = F.cross_entropy(logits, targets[at], reduction="none")
    assert torch.allclose(found, expected, atol=CLOSE)


@pytest.mark.usefixtures("one_rank")
def test_bf16_is_near_fp32(nemotron_base: Path) -> None:
    ids = tokens()
    exact = model.logits(built(nemotron_base)[0], ids)
    network, _ = built(nemotron_base, "bf16")
    assert network.output_layer.weight.dtype == torch.bfloat16
    assert network.decoder.layers[0].mixer.A_log.dtype == torch.float32
    near = model.logits(network, ids).float()
    assert 1e-4 < (near - exact).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.parametrize(
    ("sizes", "world", "reason"),
    [
        ({"tensor": 2}, 1, "1 processes cannot be divided"),
        ({"tensor": 2, "pipeline": 2}, 6, "tensor x pipeline = 2 x 2"),
        ({"expert": 3}, 4, "expert = 3 does not divide the 4 processes"),
        ({"precision": "fp8"}, 1, "precision 'fp8': one of fp32, bf16"),
    ],
)
def test_layouts_that_do_not_fit_the_processes_are_refused(
    sizes: dict[str, Any], world: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    with pytest.raises(LayoutError, match=reason):
        layout.start(Layout(**sizes))


@pytest.mark.parametrize(
    ("which", "sizes", "reason"),
    [
        ("dense_base", {"tensor": 4}, "tensor = 4 does not divide n_groups = 2"),
        ("dense_base", {"pipeline": 4}, "pipeline = 4 does not divide the 6 layers"),
        ("dense_base", {"expert": 2}, "expert = 2 does not divide 0 routed experts"),
        ("nemotron_base", {"expert": 3}, "expert = 3 does not divide 4 routed experts"),
    ],
)
def test_layouts_that_do_not_fit_the_model_are_refused(
    which: str, sizes: dict[str, Any], reason: str, request: pytest.FixtureRequest
) -> None:
    config = model.read_config(request.getfixturevalue(which))
    with pytest.raises(LayoutError, match=reason):
        model.mcore_config(config, Layout(**sizes))


@pytest.mark.parametrize(
    ("key", "value"),
    [("moe_latent_size", 32), ("mlp_hidden_act", "silu"), ("tie_word_embeddings", True)],
)
def test_a_model_that_would_be_computed_wrongly_is_refused(
    key: str, value: Any, nemotron_base: Path, tmp_path: Path
) -> None:
    config = json.loads((nemotron_base / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ModelError, match=f"{key}={value!r}.*use trainer=peft"):
        model.read_config(tmp_path)


def test_another_architecture_is_refused(tiny_base: Path) -> None:
    with pytest.raises(ModelError, match="model_type='llama'"):
        model.read_config(tiny_base)


def test_experts_are_whole_on_a_rank_and_do_not_overlap(nemotron_base: Path) -> None:
    """Pitfall: LoRA on experts is wrong with expert tensor parallelism and with overlap."""
    config = model.mcore_config(model.read_config(nemotron_base), Layout(expert=2))
    assert config.expert_tensor_parallel_size == 1
    assert config.expert_model_parallel_size == 2
    assert config.moe_shared_expert_overlap is False


@pytest.mark.usefixtures("one_rank")
def test_a_missing_tensor_is_named(nemotron_base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from train.mcore import weights

    base = tmp_path / "torn"
    shutil.copytree(nemotron_base, base)
    tensors = load_file(base / "model.safetensors")
    del tensors["backbone.layers.4.mixer.D"]
    save_file(tensors, base / "model.safetensors")
    config = model.read_config(base)
    with pytest.raises(ModelError, match=r"has no tensor layers\.4\.mixer\.D"):
        weights.load(model.build(config, Layout()), config, base)
