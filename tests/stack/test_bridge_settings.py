"""trainer=bridge without Megatron-Bridge: settings, rows, names, state, import. Plain functions."""

from __future__ import annotations

import json
import os
import runpy
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from eval.adapter import base_digest, base_shapes
from eval.chat import load_chat
from train.batching import IGNORE, DataError, Example, plan, read_rows, tokenize
from train.checkpoint import StateError
from train.mcore.names import join, mamba_rows, targets
from train.nemo_bridge import adapter, family, imported, progress, rows
from train.nemo_bridge.family import BridgeError, Layout
from train.nemo_bridge.overrides import CLIP_OFF, apply, overrides, patterns
from train.run import Run

from tests.stack.bridge_support import STANDIN

NANO = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
LAYOUT = Layout(1, 1, 8, 4096, 1, 8)
Train = dict[str, Any]


def settings(train: Train, layout: Layout = LAYOUT) -> dict[str, Any]:
    return overrides(
        train,
        layout,
        length=256,
        seed=7,
        base=Path("/b"),
        imported=Path("/b/m"),
        state=Path("/o/state"),
        targets=patterns({"in_proj"}),
    )


@pytest.fixture
def train(small_recipe: dict[str, Any]) -> Train:
    """The `train` section, its own copy."""
    copy: Train = json.loads(json.dumps(small_recipe["train"]))
    return copy


# -- families and layouts


@pytest.mark.parametrize(
    ("name", "shape", "processes", "expected"),
    [
        ("nano", (52, 2688), 8, (1, 1, 8)),
        ("super", (88, 4096), 16, (8, 1, 16)),
        ("ultra", (108, 8192), 32, (2, 4, 8)),
    ],
)
def test_a_base_is_recognised_and_laid_out_as_nvidia_does(
    name: str, shape: tuple[int, int], processes: int, expected: tuple[int, int, int]
) -> None:
    config = SimpleNamespace(hybrid_override_pattern="M" * shape[0], hidden_size=shape[1])
    found = family.recognise(config, "auto")
    assert found.name == name
    layout = family.layout(found, (0, 0, 0), 4096, 1, processes)
    assert (layout.tensor, layout.pipeline, layout.expert) == expected
    # conf/model asks for exactly the ranks of that example
    assert processes == layout.pipeline * max(layout.tensor, layout.expert)
    with pytest.raises(BridgeError, match=f"at least {processes}"):
        family.layout(found, (0, 0, 0), 4096, 1, processes // 2)


def test_both_ways_of_writing_the_pattern(nemotron_base: Path, tmp_path: Path) -> None:
    raw = json.loads((nemotron_base / "config.json").read_text())
    pattern = family.read_config(nemotron_base).hybrid_override_pattern
    assert pattern == "ME*-ME"
    raw.pop("layers_block_type", None)
    (tmp_path / "config.json").write_text(json.dumps(raw | {"hybrid_override_pattern": NANO}))
    assert family.read_config(tmp_path).hybrid_override_pattern == NANO
    (tmp_path / "config.json").write_text(json.dumps(raw | {"model_type": "llama"}))
    with pytest.raises(BridgeError, match=r"model_type='llama'.* use trainer=peft"):
        family.read_config(tmp_path)


@pytest.mark.parametrize(
    ("changes", "layout", "reason"),
    [
        ({"packing": True}, LAYOUT, "train.packing"),
        (
            {"lora": {"rank": 8, "targets": ["all", "experts"]}},
            LAYOUT,
            "train.lora: Megatron-Bridge",
        ),
        ({"lora": {"rank": 8, "targets": "lm_head"}}, LAYOUT, "train.lora: Megatron-Bridge"),
        ({"lora": {"rank": 8, "targets": "all", "ranks": {"mlp": 4}}}, LAYOUT, "one rank for all"),
        ({"batch_size": 12}, LAYOUT, "train.batch_size = 12 is not a multiple of micro_batch x"),
        (
            {"lora": {"rank": 6, "targets": "all"}},
            Layout(8, 1, 16, 4096, 1, 16),
            "train.lora.rank = 6 is not a multiple",
        ),
        (
            {"lora": {"rank": 6, "targets": "all"}},
            Layout(3, 1, 1, 4096, 1, 3),
            "n_groups = 8 cannot be divided among 3",
        ),
        ({}, Layout(1, 5, 1, 4096, 1, 5), "52 layers = 52 cannot be divided among 5"),
        ({}, Layout(1, 1, 3, 4096, 1, 1), "n_routed_experts = 128 cannot be divided among 3"),
    ],
)
def test_what_bridge_cannot_do_is_refused(
    changes: Train, layout: Layout, reason: str, train: Train
) -> None:
    config = SimpleNamespace(
        hybrid_override_pattern=NANO, n_groups=8, mamba_num_heads=64, n_routed_experts=128
    )
    family.check(LAYOUT, config, train)
    with pytest.raises(BridgeError, match=reason):
        family.check(layout, config, train | changes)


# -- settings


def test_every_knob_of_the_recipe_reaches_the_settings(train: Train) -> None:
    train |= {
        "steps": 321,
        "batch_size": 48,
        "learning_rate": 3e-4,
        "optimizer": {"weight_decay": 0.07, "clip": 0.6, "beta1": 0.85, "beta2": 0.97},
        "lora": {"rank": 16, "alpha": 24, "dropout": 0.05, "targets": "all"},
    }
    got = settings(train)
    wanted = {
        "train.train_iters": 321,
        "train.global_batch_size": 48,
        "optimizer.lr": 3e-4,
        "optimizer.weight_decay": 0.07,
        "scheduler.start_weight_decay": 0.07,
        "scheduler.end_weight_decay": 0.07,
        "optimizer.clip_grad": 0.6,
        "optimizer.adam_beta1": 0.85,
        "optimizer.adam_beta2": 0.97,
        "peft.dim": 16,
        "peft.alpha": 24,
        "peft.dropout": 0.05,
        "rng.seed": 7,
        "model.seq_length": 256,
        "checkpoint.pretrained_checkpoint": "/b/m",
        "checkpoint.save": "/o/state",
        "checkpoint.load": "/o/state",
        "tokenizer.tokenizer_model": "/b",
    }
    assert {key: got[key] for key in wanted} == wanted
    train["optimizer"]["clip"] = 0
    assert settings(train)["optimizer.clip_grad"] == CLIP_OFF


def test_the_pitfalls_are_settings(train: Train) -> None:
    """What of the official recipes must not stay as it is."""
    got = settings(train, Layout(8, 1, 16, 4096, 1, 16))
    assert got["checkpoint.fully_parallel_save"] is False and got["checkpoint.async_save"] is False
    assert got["model.expert_tensor_parallel_size"] == 1
    assert got["model.moe_shared_expert_overlap"] is False
    assert got["model.sequence_parallel"] is True  # tensor > 1 with experts
    assert settings(train)["model.sequence_parallel"] is False
    assert got["model.moe_router_bias_update_rate"] == got["model.moe_aux_loss_coeff"] == 0.0
    assert got["model.mtp_num_layers"] == 0 and got["model.mtp_use_repeated_layer"] is False
    assert got["ddp.overlap_param_gather"] is False
    assert got["logger.tensorboard_dir"] is None  # the fork is read-only


def test_a_version_without_a_setting_is_refused() -> None:
    config = SimpleNamespace(train=SimpleNamespace(train_iters=1000))
    apply(config, {"train.train_iters": 5})
    assert config.train.train_iters == 5
    for name in ("train.iterations", "validation.eval_iters"):
        with pytest.raises(BridgeError, match=f"no setting {name}; .* 0.5 and 0.6"):
            apply(config, {name: 0})


def test_patterns_leave_out_experts_and_mtp() -> None:
    matcher = runpy.run_path(str(STANDIN / "megatron/bridge/peft/lora.py"))
    found = patterns(
        {
            "linear_qkv",
            "linear_proj",
            "linear_fc1",
            "linear_fc2",
            "in_proj",
            "shared_experts.linear_fc1",
            "shared_experts.linear_fc2",
        }
    )

    def hit(name: str) -> bool:
        return any(matcher["wildcard_match"](pattern, name) for pattern in found)

    for name in (
        "self_attention.linear_qkv",
        "mixer.in_proj",
        "mlp.shared_experts.linear_fc1",
        "mlp.linear_fc2",
    ):
        assert hit(f"decoder.layers.11.{name}") and hit(f"module.decoder.layers.0.{name}")
    for name in (
        "decoder.layers.1.mlp.experts.linear_fc1",
        "decoder.layers.2.mixer.out_proj",
        "decoder.layers.1.mlp.experts.local_experts.3.linear_fc2",
        "mtp.layers.0.mtp_model_layer.layers.0.self_attention.linear_qkv",
        "decoder.layers.3.mlp.fc1_latent_proj",
    ):
        assert not hit(name)


# -- rows


def test_a_row_has_our_mask_and_nothing_of_the_padding(
    train_path: Path, nemotron_base: Path
) -> None:
    """The labels of train.batching, one place earlier: megatron's position i predicts i + 1."""
    chat = load_chat(nemotron_base)
    for mask in ("completion", "answer", "all"):
        for example in tokenize(read_rows(train_path)[:20], chat, mask):
            got = rows.row(example, 256, chat.pad_id, 1.0)
            size = len(example.ids)
            assert got["tokens"][:size].tolist() == example.ids
            assert set(got["tokens"][size:].tolist()) == {chat.pad_id}
            learned = [i for i in range(size - 1) if example.labels[i + 1] != IGNORE]
            assert torch.nonzero(got["loss_mask"]).squeeze(1).tolist() == learned
            assert [int(got["labels"][i]) for i in learned] == [example.ids[i + 1] for i in learned]
            assert got["loss_mask"].dtype == torch.float32 and int(got["position_ids"][-1]) == 255


def test_the_dataset_is_the_plan(train_path: Path, nemotron_base: Path) -> None:
    chat = load_chat(nemotron_base)
    examples = tokenize(read_rows(train_path)[:10], chat, "completion")
    order = plan(10, 4, 6, 7, True)
    length = rows.row_length(examples, 4096)
    dataset = rows.Rows(examples, order, length, chat.pad_id)
    assert len(dataset) == 24 and length == 128
    for step in (0, 5):
        for place, index in enumerate(order[step]):
            ids = examples[index].ids
            assert dataset[4 * step + place]["tokens"][: len(ids)].tolist() == ids


def test_row_length_and_weights() -> None:
    def example(size: int, weight: float) -> Example:
        return Example(list(range(size)), [IGNORE, *range(1, size)], weight)

    assert rows.row_length([example(129, 1)], 4096) == 256
    assert rows.row_length([example(129, 1)], 200) == 200
    with pytest.raises(DataError, match=r"129 tokens, a row at most 128: raise trainer\.options"):
        rows.row_length([example(129, 1)], 128)
    assert rows.weight_scale([example(9, 0.25)] * 2, [[0, 1]]) == 4.0  # equal: 1 a token
    some = [example(9, 1.0), example(9, 3.0), example(9, 0.0)]
    scale = rows.weight_scale(some, [[0, 1, 2]])
    assert scale * 2.0 == rows.MEAN_WEIGHT  # of the mean weight of those above 0
    many = [example(2000, 1.0), example(2000, 3.0)]
    heavy = rows.weight_scale(many, [[0, 1] * 4])
    assert heavy * 4 * 1999 * 4.0 == pytest.approx(rows.MOST)  # int32 in megatron
    with pytest.raises(DataError, match="every row has weight 0"):
        rows.weight_scale([example(9, 0.0)], [[0]])


# -- the adapter


def test_the_adapter_of_the_base(nemotron_base: Path) -> None:
    config, weights = family.read_config(nemotron_base), base_shapes(nemotron_base)
    leaves = targets(config, "all")
    found = adapter.modules(config, leaves)
    assert "layers.1.mixer.shared_experts.up_proj" in found and "layers.3.mixer.up_proj" in found
    assert not any(".experts." in module or "out_proj" in module for module in found)
    expected = adapter.shapes(found, weights, 8)
    assert all(name.startswith("base_model.model.backbone.layers.") for name in expected)
    with pytest.raises(BridgeError, match="has no tensor backbone"):
        adapter.shapes(["layers.99.mixer.in_proj"], weights, 8)
    attention = {name: shape for name, shape in expected.items() if ".2.mixer." in name}
    q, k, o = 64, 32, 64  # rows of q and o, of k and of v; rank 8, hidden 64
    assert adapter.trained(attention) == 8 * 64 + 8 * (q + 2 * k) + 8 * 64 + 8 * o


def test_rows_of_in_proj_are_put_together_by_component(nemotron_base: Path) -> None:
    """Ranks' rows one after the other, as Megatron-Bridge has them, are another matrix."""
    config = family.read_config(nemotron_base)
    sizes = mamba_rows(config)
    whole = torch.randn(sum(sizes), 4)
    for world in (1, 2):
        ranks = [
            torch.cat([part.chunk(world)[rank] for part in whole.split(sizes)])
            for rank in range(world)
        ]
        assert torch.equal(join(ranks, 0, sizes), whole)
        assert torch.equal(torch.cat(ranks), whole) == (world == 1)


def test_exported_names_become_pefts_and_all_must_be_there() -> None:
    expected = {
        f"base_model.model.backbone.layers.0.mixer.in_proj.lora_{half}.weight": shape
        for half, shape in (("A", (2, 4)), ("B", (6, 2)))
    }
    wrong, right = torch.zeros(6, 2), torch.ones(6, 2)
    a = torch.full((2, 4), 2.0, dtype=torch.bfloat16)
    for root in ("backbone.", "model.", "base_model.model.backbone."):
        exported = [
            (f"{root}layers.0.mixer.in_proj.lora_A.weight", a),
            (f"{root}layers.0.mixer.in_proj.lora_B.weight", wrong),
            ("mtp.layers.0.mixer.q_proj.lora_A.weight", a),
        ]
        got = adapter.tidy(exported, {"layers.0.mixer.in_proj": right}, expected)
        assert got.keys() == expected.keys()
        assert all(tensor.dtype == torch.float32 for tensor in got.values())
        assert torch.equal(
            got["base_model.model.backbone.layers.0.mixer.in_proj.lora_B.weight"], right
        )
    with pytest.raises(BridgeError, match="exported 1 tensors where 2 are trained"):
        adapter.tidy(exported[:1], {}, expected)
    with pytest.raises(BridgeError, match=r"exported lm_head\.lora_A\.weight, which no adapter"):
        adapter.tidy([("lm_head.lora_A.weight", a)], {}, expected)


# -- resume


def saved(state: Path, step: int) -> Path:
    """A checkpoint of Megatron-Bridge's, as far as its train state goes."""
    folder = state / f"iter_{step:07d}"
    folder.mkdir(parents=True)
    torch.save({"step": torch.tensor(step)}, folder / "train_state.pt")
    return folder


def test_the_newest_whole_checkpoint_is_the_one_loaded(tmp_path: Path) -> None:
    assert progress.repair(tmp_path) is None
    saved(tmp_path, 10)
    (saved(tmp_path, 20) / "train_state.pt").write_bytes(b"PK\3\4 cut off")
    (tmp_path / "iter_0000030").mkdir()  # killed before its train state was written
    (tmp_path / "latest_train_state.pt").write_bytes(b"")
    assert progress.repair(tmp_path) == 10
    assert sorted(path.name for path in tmp_path.glob("iter_*")) == ["iter_0000010"]
    assert int(torch.load(tmp_path / "latest_train_state.pt", weights_only=True)["step"]) == 10
    assert (tmp_path / "latest_checkpointed_iteration.txt").read_text() == "10\n"
    (tmp_path / "iter_0000010" / "train_state.pt").unlink()
    assert progress.repair(tmp_path) is None
    assert list(tmp_path.iterdir()) == []  # nothing that would be taken for a state


def test_a_log_goes_on_and_refuses_what_is_not_its_own(
    small_recipe: dict[str, Any], tmp_path: Path
) -> None:
    run = Run(small_recipe, tmp_path, tmp_path, tmp_path / "out", 7, 1)

    def opened(seed: int = 7) -> progress.Log:
        log = progress.Log(run, {"seed": seed}, [5, 6, 7])
        log.open()
        return log

    log = opened()
    log.begin(0)
    assert log.add(2.0, 0.1, 1.0, 0.5) and log.add(1.5, 0.1, 1.0, 0.5)
    assert not log.add(float("nan"), 0.1, 1.0, 0.5)
    saved(log.state, 2)
    again = opened()
    again.begin(2)
    assert (
        again.progress.step,
        again.progress.tokens,
        again.progress.loss,
        again.progress.seconds,
        again.resumed_from,
    ) == (2, 11, 1.5, 1.0, [2])
    assert opened().resumed_from == [2, 2]
    with pytest.raises(StateError, match="starts after step 1, its newest checkpoint is of step 2"):
        again.begin(1)
    with pytest.raises(StateError, match="made with another seed"):
        opened(seed=8)
    (log.metrics).write_text("")
    with pytest.raises(StateError, match="lacks steps before 2"):
        opened().begin(2)


# -- the import


@pytest.fixture
def own_base(nemotron_base: Path, tmp_path: Path) -> Path:
    """A base that may be written to."""
    base = tmp_path / "base"
    base.mkdir()
    for path in nemotron_base.iterdir():
        if path.is_file():
            (base / path.name).write_bytes(path.read_bytes())
    return base


def test_an_import_is_made_once_and_whole(own_base: Path) -> None:
    folder = imported.location(own_base, "auto")
    assert folder == own_base / "megatron" and imported.location(own_base, "/x") == Path("/x")
    with pytest.raises(BridgeError, match=r"python -m train\.nemo_bridge\.imported --base"):
        imported.digest(own_base, folder)

    def killed(base: Path, to: Path) -> None:
        (to / "iter_0000000").mkdir(parents=True)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        imported.make(own_base, folder, killed)
    with pytest.raises(BridgeError, match="wrote no checkpoint"):
        imported.make(own_base, folder, lambda base, to: to.mkdir())
    assert not folder.exists()
    calls: list[Path] = []

    def convert(base: Path, to: Path) -> None:
        calls.append(to)
        time.sleep(0.05)  # the others come while this one works
        (to / "iter_0000000").mkdir(parents=True)

    threads = [
        threading.Thread(target=imported.make, args=(own_base, folder, convert)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and (folder / "iter_0000000").is_dir()
    assert imported.digest(own_base, folder) == base_digest(own_base)


def test_another_base_is_not_trained_on_an_old_import(own_base: Path) -> None:
    folder = own_base / "megatron"
    imported.make(own_base, folder, lambda base, to: (to / "iter_0000000").mkdir(parents=True))
    before = imported.digest(own_base, folder)
    weights = next(own_base.glob("*.safetensors"))
    os.utime(weights, ns=(1, 1))  # copied elsewhere: the same content
    assert imported.digest(own_base, folder) == before
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(BridgeError, match="made from another state of"):
        imported.digest(own_base, folder)


def test_the_record_spares_hashing_the_base(
    own_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terabyte of weights takes minutes, on every rank."""
    folder = own_base / "megatron"
    imported.make(own_base, folder, lambda base, to: (to / "iter_0000000").mkdir(parents=True))
    monkeypatch.setattr(imported, "base_digest", lambda base: pytest.fail("hashed"))
    assert len(imported.digest(own_base, folder)) == 64
