"""The data pipeline: every knob changes what it names, every mistake is named, no row leaks."""

import copy
import dataclasses
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import puzzles
import pytest
import yaml
from data.build import build
from data.recipe import STYLES, RecipeError, load_recipe
from data.traces import completion
from eval.metric import extract
from puzzles import text

from aevo.files.keys import set_key
from tests.stack.conftest import SUBSTRATE

TINY = puzzles.load_preset("tiny")
RECIPE = load_recipe(SUBSTRATE / "recipe.yaml")
SMALL: dict[str, Any] = {"data.examples": 240, "train.batch_size": 8}


def recipe(**changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy(RECIPE)
    for key, value in {**SMALL, **{k.replace("__", "."): v for k, v in changes.items()}}.items():
        set_key(changed, key, value)
    return changed


def rows(seed: int = 3, **changes: Any) -> list[dict[str, Any]]:
    return build(recipe(**changes), TINY, seed)[0]


def test_same_recipe_and_seed_give_the_same_rows_another_seed_others() -> None:
    assert rows() == rows() != rows(seed=4)


@pytest.mark.parametrize("name", ["tiny", "challenge"])
def test_every_completion_ends_in_the_box_with_the_answer(name: str) -> None:
    preset = puzzles.load_preset(name)
    for domain in puzzles.DOMAINS:
        for puzzle in puzzles.draw(preset, domain, 25, 1, "train"):
            for style in STYLES:
                written = completion(puzzle, style)
                assert written.endswith(f"\\boxed{{{puzzle.answer}}}")
                assert extract(written) == puzzle.answer


def test_no_row_is_of_dev_or_hidden_even_after_augmentation() -> None:
    built = rows(data__augment={"reorder_examples": 1, "extra_example": 1, "perturb_numbers": 1})
    assert built and all(puzzles.split_of(row["prompt"]) == "train" for row in built)


def test_augmented_rows_are_right() -> None:
    built = rows(
        data__augment={"reorder_examples": 1, "extra_example": 1, "perturb_numbers": 1},
        data__filter__resolve=False,
    )
    for row in built:
        assert puzzles.solve(row["prompt"], row["domain"], TINY) in (row["answer"], None)


def test_mixture_up_and_down_samples() -> None:
    counts = Counter(
        row["domain"] for row in rows(data__mixture__equation=5, data__mixture__bits=0)
    )
    assert counts["bits"] == 0
    assert counts["equation"] > 4 * counts["unit"]


def test_trace_styles_lengthen_completions_and_may_differ_by_domain() -> None:
    def length(built: list[dict[str, Any]], domain: str) -> float:
        found = [len(row["completion"]) for row in built if row["domain"] == domain]
        return sum(found) / len(found)

    none, short, full = (rows(data__trace__style=style) for style in ("none", "short", "full"))
    assert length(none, "unit") < length(short, "unit") < length(full, "unit")
    mixed = rows(data__trace__domains={"unit": "full"})
    assert length(mixed, "unit") == length(full, "unit")
    assert length(mixed, "cipher") == length(none, "cipher")
    half = Counter(
        row["source"] for row in rows(data__trace={"style": "full", "fraction": 0.5, "domains": {}})
    )
    assert set(half) == {"generator:full", "generator:none"}


@pytest.mark.parametrize("half", ["easy", "hard"])
def test_difficulty_keeps_half_of_every_domain(half: str) -> None:
    found, dropped = build(recipe(data__filter__difficulty=half), TINY, 3)
    assert dropped["difficulty"] == 120
    counts = Counter(row["domain"] for row in found)
    assert counts == dict.fromkeys(puzzles.DOMAINS, 20)
    levels = {
        name: [
            row["difficulty"]
            for row in rows(data__filter__difficulty=name)
            if row["domain"] == "unit"
        ]
        for name in ("easy", "hard")
    }
    assert max(levels["easy"]) <= min(levels["hard"])


def test_long_prompts_are_dropped_and_counted() -> None:
    built, dropped = build(recipe(data__filter__max_chars=60), TINY, 3)
    assert dropped["max_chars"] > 0 and all(len(row["prompt"]) <= 60 for row in built)


def test_curriculum_goes_from_easy_to_hard_in_every_domain_at_once() -> None:
    ordered = rows(data__order="easy_first")
    for domain in puzzles.DOMAINS:
        levels = [row["difficulty"] for row in ordered if row["domain"] == domain]
        assert levels == sorted(levels)
    assert set(Counter(row["domain"] for row in ordered[:120]).values()) == {20}


def test_domain_weights_reach_the_rows() -> None:
    weights = {
        row["domain"]: row["weight"] for row in rows(train__loss__domain_weights={"unit": 2.0})
    }
    assert weights["unit"] == 2.0 and weights["bits"] == 1.0


@pytest.mark.parametrize("preset", [TINY, puzzles.load_preset("challenge")], ids=lambda p: p.name)
def test_a_new_query_is_never_one_of_the_examples(preset: puzzles.Preset) -> None:
    settings = recipe(
        data__augment={"reorder_examples": 0, "extra_example": 0, "perturb_numbers": 1}
    )
    given = Counter({row["id"]: 1 for row in build(recipe(), preset, 3)[0]})
    fresh = [row for row in build(settings, preset, 3)[0] if row["id"] not in given]
    assert fresh
    for row in fresh:
        examples, query = text.parse(row["prompt"], row["domain"])
        if row["domain"] != "equation":  # symbolic ones stay as they are
            assert query not in [x for x, _ in examples]


def test_augmentation_stays_within_the_knobs_of_the_preset() -> None:
    knobs = {**TINY.knobs, "cipher": {**TINY.knobs["cipher"], "letters": 4}}
    narrow = dataclasses.replace(TINY, knobs=knobs)
    settings = recipe(
        data__augment={"reorder_examples": 0, "extra_example": 1, "perturb_numbers": 1}
    )
    built = [row for row in build(settings, narrow, 3)[0] if row["domain"] == "cipher"]
    assert built
    for row in built:
        examples, query = text.parse(row["prompt"], "cipher")
        assert set("".join([query, *(x for x, _ in examples)])) <= set("ABCD")


def test_all_mistakes_of_a_recipe_are_named_at_once(tmp_path: Path) -> None:
    changed = recipe(
        train__learning_rate="fast",
        data__trace__style="long",
        data__mixture={"bits": 1},
        train__lora__rank=64,
        nonsense=1,
    )
    del changed["train"]["steps"]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(changed))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    for part in (
        "train.learning_rate='fast'",
        "one of none, short, full",
        "data.mixture",
        "train.lora.rank=64 must be a whole number from 1 to 32",
        "nonsense is unknown",
        "train.steps is missing",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("train.lora.targets", [["q_proj"]], "or a list of these and q_proj"),
        ("train.lora.ranks", {"q_proj": 4}, "a mapping of attention, mlp, mamba"),
        ("train.lora.ranks", {"experts": 64}, "to a whole number from 1 to 32"),
        ("train.lora.targets", [], "one of all, attention, mlp"),
        ("select.weights", dict.fromkeys(puzzles.DOMAINS, 0), "at least one is above 0"),
        ("data.mixture", dict.fromkeys(puzzles.DOMAINS, 0), "at least one is above 0"),
        ("train.learning_rate", "3e-3", "(write 3.0e-3)"),
        ("train.learning_rate", float("nan"), "a number from 0 to 10"),
        ("train.lora.rank", True, "a whole number from 1 to 32"),
        ("data.trace.domains", {"symbol": "full"}, "a mapping of bits, gravity"),
        ("data.filter", None, "data.filter.dedupe is missing"),
        ("data.filter.resolve", "yes", "true or false"),
    ],
)
def test_a_bad_value_is_named_with_what_it_may_be(
    tmp_path: Path, key: str, value: Any, says: str
) -> None:
    changed = copy.deepcopy(RECIPE)
    set_key(changed, key, value)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(changed))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert key in str(caught.value) and says in str(caught.value)


def test_command_line_reports_a_mistake_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("data: [")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "data.build",
            "--recipe",
            str(path),
            "--preset",
            "tiny",
            "--seed",
            "1",
            "--out",
            str(tmp_path / "out"),
        ],
        cwd=SUBSTRATE,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
