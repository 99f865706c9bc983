"""The base that ships, how it is made, and how others are prepared."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from base import corpus, prepare, pretrain
from eval.adapter import file_sha256
from eval.evaluate import load_evaluator, score
from puzzles import split_of
from transformers import AutoModelForCausalLM, AutoTokenizer


def test_the_checkpoint_is_what_its_record_says_and_small(tiny_base: Path) -> None:
    record = json.loads((tiny_base / "pretraining.json").read_text())
    for name, sha in record["sha256"].items():
        assert file_sha256(tiny_base / name) == sha, name
    assert sum(path.stat().st_size for path in tiny_base.iterdir()) < 2_000_000
    defaults = vars(pretrain.parse(["--out", "x"]))
    assert record["arguments"] == {k: v for k, v in defaults.items() if k != "out"}


def test_transformers_loads_it_as_any_model(tiny_base: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(tiny_base)
    assert network.config.model_type == "llama"
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    assert tokenizer.eos_token_id == network.generation_config.eos_token_id
    assert len(tokenizer) == network.config.vocab_size


def test_it_knows_something_and_leaves_room(
    tiny_base: Path, dev_items: list[dict[str, Any]]
) -> None:
    scores = score(load_evaluator(dev_items, tiny_base, 48).predictions(None))
    assert 0.25 < scores["dev"] < 0.5
    assert scores["boxed"] > 0.9


@pytest.mark.parametrize("seed", [0, 1])
def test_pretraining_questions_are_of_the_train_split(seed: int) -> None:

    documents = corpus.pretraining_texts("tiny", 300, random.Random(seed), 0.5, 0.6)
    questions = [parts[0][0] for parts in documents if parts[0][0].startswith("<|user|>")]
    assert 100 < len(questions) < 200
    for question in questions:
        prompt = question.removeprefix("<|user|>").removesuffix("<|assistant|>")
        assert split_of(prompt) == "train"


@pytest.mark.long(2)
def test_pretraining_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        argv = ["--out", str(tmp_path / name), "--steps", "4", "--hidden", "32", "--heads", "1"]
        assert pretrain.main([*argv, "--ffn", "64", "--layers", "1"]) == 0
        digests.append(json.loads((tmp_path / name / "pretraining.json").read_text())["sha256"])
    assert digests[0] == digests[1]


def test_a_folder_that_holds_something_else_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert prepare.main(["--model", "smollm2_135m", "--out", str(tmp_path)]) == 2
    assert "not a prepared model" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").exists()


def test_a_missing_package_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert prepare.main(["--model", "smollm2_135m", "--out", str(tmp_path / "m")]) == 2
    error = capsys.readouterr().err
    assert "pip install gguf" in error
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(
    "AEVO_TEST_SMOLLM2" not in os.environ, reason="AEVO_TEST_SMOLLM2=1: 93 MB and minutes"
)
def test_smollm2_goes_through_the_same_code(
    small_recipe: dict[str, Any], train_path: Path, dev_items: list[dict[str, Any]], tmp_path: Path
) -> None:
    from eval import evaluate
    from train import sft

    base = tmp_path / "smollm2"
    assert prepare.prepare("smollm2_135m", base)
    assert not prepare.prepare("smollm2_135m", base)
    settings = small_recipe["train"] | {"steps": 3, "batch_size": 4, "checkpoints": 1}
    recipe, items = tmp_path / "recipe.yaml", tmp_path / "items.jsonl"
    recipe.write_text(yaml.safe_dump(small_recipe | {"train": settings}))
    items.write_text("".join(json.dumps(item) + "\n" for item in dev_items[::20]))
    argv = ["--base", str(base), "--out", str(tmp_path / "out")]
    more = ["--recipe", str(recipe), "--data", str(train_path), "--seed", "1"]
    assert sft.main([*argv, *more]) == 0
    adapter = tmp_path / "out" / "checkpoints" / "step-000003"
    argv = ["--base", str(base), "--out", str(tmp_path / "scores"), "--max-new", "24"]
    assert evaluate.main([*argv, "--items", str(items), "--adapter", f"last={adapter}"]) == 0
    record = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert record["scores"]["last"]["n"] == 12
