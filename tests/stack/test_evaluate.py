"""Trusted evaluation: what is scored, what is refused, what survives a kill."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from eval import evaluate as evaluation
from eval import export
from eval.adapter import AdapterError, base_digest, base_shapes, load_adapter, merge
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def adapter(trained: Path, tmp_path: Path) -> Path:
    """A copy of a trained adapter, to be spoilt."""
    return Path(shutil.copytree(trained / "checkpoints" / "step-000060", tmp_path / "adapter"))


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, edit: Callable[[Tensors], None]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def first(tensors: Tensors, half: str = "lora_A") -> str:
    return next(name for name in sorted(tensors) if half in name)


def poison(tensors: Tensors) -> None:
    tensors[first(tensors)][0, 0] = float("nan")


def widen(tensors: Tensors) -> None:
    tensors[first(tensors)] = torch.zeros(8, 65)


def rename(tensors: Tensors) -> None:
    tensors["base_model.model.lm_head.lora_A.weight"] = tensors.pop(first(tensors))


def extra(tensors: Tensors) -> None:
    tensors["model.embed_tokens.weight"] = torch.zeros(2, 2)


def halve(tensors: Tensors) -> None:
    del tensors[first(tensors)]


def whole_numbers(tensors: Tensors) -> None:
    tensors[first(tensors)] = tensors[first(tensors)].to(torch.int32)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "nan": (lambda f: edit_tensors(f, poison), "not finite"),
    "shape": (lambda f: edit_tensors(f, widen), "do not fit"),
    "unknown module": (lambda f: edit_tensors(f, rename), "lm_head"),
    "extra tensor": (lambda f: edit_tensors(f, extra), "unexpected tensor"),
    "half a pair": (lambda f: edit_tensors(f, halve), "has only lora_B"),
    "type": (lambda f: edit_tensors(f, whole_numbers), "int32"),
    "rank": (lambda f: edit_config(f, r=33), "rank 33"),
    "another rank": (lambda f: edit_config(f, r=4), "at rank 4"),
    "rank as text": (lambda f: edit_config(f, r="8"), "rank '8'"),
    "alpha": (lambda f: edit_config(f, lora_alpha=float("inf")), "lora_alpha"),
    "dora": (lambda f: edit_config(f, use_dora=True), "use_dora"),
    "whole modules": (lambda f: edit_config(f, modules_to_save=["lm_head"]), "modules_to_save"),
    "not LoRA": (lambda f: edit_config(f, peft_type="IA3"), "peft_type"),
    "target": (lambda f: edit_config(f, target_modules=["q_proj"]), "not among target_modules"),
    "broken JSON": (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json"),
    "broken tensors": (
        lambda f: (f / "adapter_model.safetensors").write_bytes(b"\0" * 64),
        "adapter_model.safetensors",
    ),
    "code beside it": (lambda f: (f / "modeling.py").write_text(""), "holds .*modeling.py"),
    "pickle": (lambda f: (f / "adapter_model.bin").write_bytes(b"x"), "must hold exactly"),
    "missing": (lambda f: (f / "adapter_config.json").unlink(), "must hold exactly"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_spoilt_adapters_are_refused_in_one_line(
    fault: str, adapter: Path, tiny_base: Path
) -> None:
    spoil, message = SPOILT[fault]
    spoil(adapter)
    with pytest.raises(AdapterError, match=message) as caught:
        load_adapter(adapter, base_shapes(tiny_base))
    assert "\n" not in str(caught.value)


def test_a_link_out_of_the_folder_is_refused(adapter: Path, tiny_base: Path) -> None:
    target = adapter.rename(adapter.with_name("elsewhere"))
    adapter.mkdir()
    for path in target.iterdir():
        (adapter / path.name).symlink_to(path)
    with pytest.raises(AdapterError, match="not a plain file"):
        load_adapter(adapter, base_shapes(tiny_base))


def test_an_update_out_of_proportion_is_refused(adapter: Path, tiny_base: Path) -> None:
    edit_tensors(adapter, lambda t: t.update({k: v * 1e4 for k, v in t.items()}))
    loaded = load_adapter(adapter, base_shapes(tiny_base))
    with pytest.raises(AdapterError, match="times the norm"):
        merge(load_file(tiny_base / "model.safetensors"), loaded)


@pytest.mark.parametrize("rslora", [False, True])
def test_merging_equals_peft(adapter: Path, tiny_base: Path, rslora: bool) -> None:
    edit_config(adapter, use_rslora=rslora)
    network = AutoModelForCausalLM.from_pretrained(tiny_base)
    expected = PeftModel.from_pretrained(network, adapter).merge_and_unload().state_dict()
    weights = load_file(tiny_base / "model.safetensors")
    merged = merge(weights, load_adapter(adapter, base_shapes(tiny_base)))
    changed = [name for name in weights if not torch.equal(merged[name], weights[name])]
    assert len(changed) == 14
    for name in weights:
        torch.testing.assert_close(merged[name], expected[name], rtol=1e-5, atol=1e-6)


def score(items: Path, base: Path, out: Path, *more: str) -> int:
    return evaluation.main(["--items", str(items), "--base", str(base), "--out", str(out), *more])


def test_scores_follow_from_predictions_and_a_bad_adapter_stops_no_other(
    adapter: Path, trained: Path, tiny_base: Path, items_path: Path, tmp_path: Path
) -> None:
    edit_config(adapter, r=64)
    good = trained / "checkpoints" / "step-000060"
    more = ["--include-base", "--adapter", f"bad={adapter}", "--adapter", f"good={good}"]
    assert score(items_path, tiny_base, tmp_path, *more) == 0
    record = json.loads((tmp_path / "scores.json").read_text())
    assert record["schema_version"] == 1
    assert record["base_sha256"] == base_digest(tiny_base)
    assert list(record["scores"]) == ["base", "bad", "good"]
    assert record["scores"]["bad"] == {"error": "rank 64: must be between 1 and 32"}
    rows = [json.loads(x) for x in (tmp_path / "good.predictions.jsonl").read_text().splitlines()]
    items = [json.loads(line) for line in items_path.read_text().splitlines()]
    assert [row["id"] for row in rows] == [item["id"] for item in items]
    good_score = record["scores"]["good"]
    assert good_score["dev"] == sum(row["correct"] for row in rows) / len(rows)
    assert sum(d["n"] for d in good_score["domains"].values()) == good_score["n"] == len(items)
    assert good_score["dev"] > record["scores"]["base"]["dev"]


def test_finished_predictions_are_kept_and_stale_ones_are_not(
    trained: Path,
    tiny_base: Path,
    items_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    predictions = evaluation.Evaluator.predictions

    def counted(self: evaluation.Evaluator, adapter: Any) -> list[dict[str, Any]]:
        calls.append("decoded")
        return predictions(self, adapter)

    monkeypatch.setattr(evaluation.Evaluator, "predictions", counted)
    first, last = (trained / "checkpoints" / name for name in ("step-000030", "step-000060"))
    assert score(items_path, tiny_base, tmp_path, "--adapter", f"a={first}") == 0
    before = (tmp_path / "scores.json").read_bytes()
    (tmp_path / "scores.json").unlink()  # killed before the end
    assert score(items_path, tiny_base, tmp_path, "--adapter", f"a={first}") == 0
    assert len(calls) == 1
    assert (tmp_path / "scores.json").read_bytes() == before
    # Torn predictions, and another adapter under the same name, are made anew.
    path = tmp_path / "a.predictions.jsonl"
    path.write_text(path.read_text()[:-40])
    assert score(items_path, tiny_base, tmp_path, "--adapter", f"a={first}") == 0
    assert score(items_path, tiny_base, tmp_path, "--adapter", f"a={last}") == 0
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "nothing to score"),
        (["--adapter", "x"], "NAME=DIR"),
        (["--adapter", "../x=y"], "NAME=DIR"),
        (["--adapter", "base=y"], "not 'base'"),
        (["--adapter", "a=x", "--adapter", "a=y"], "same name"),
    ],
)
def test_wrong_arguments_are_one_line(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        score(tmp_path / "items", tmp_path, tmp_path, *more)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_unusable_items_or_base_are_one_line(
    tiny_base: Path, items_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "items.jsonl").write_text('{"id": 1}\n')
    assert score(tmp_path / "items.jsonl", tiny_base, tmp_path, "--include-base") == 2
    assert "items.jsonl:1: lacks answer, domain, prompt" in capsys.readouterr().err
    assert score(items_path, tmp_path, tmp_path, "--include-base") == 2
    error = capsys.readouterr().err
    assert "config.json" in error
    assert "Traceback" not in error


def test_export_is_the_two_files_and_reproducible(
    adapter: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archives = [tmp_path / "a.zip", tmp_path / "deep" / "b.zip"]
    for path in archives:
        argv = ["--adapter", str(adapter), "--out", str(path), "--base", str(tiny_base)]
        assert export.main(argv) == 0
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with zipfile.ZipFile(archives[0]) as archive:
        assert archive.namelist() == ["adapter_config.json", "adapter_model.safetensors"]
        original = (adapter / "adapter_model.safetensors").read_bytes()
        assert archive.read("adapter_model.safetensors") == original
    edit_config(adapter, r=99)
    assert export.main(["--adapter", str(adapter), "--out", str(tmp_path / "c.zip")]) == 2
    assert "rank 99" in capsys.readouterr().err
    assert not (tmp_path / "c.zip").exists()
