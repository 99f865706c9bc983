"""Traces that search: their text alone leads to the very answer, and a false line is noticed."""

import dataclasses
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import puzzles
import pytest
from data import replay
from data.build import build
from data.real import written
from data.recipe import load_recipe
from data.traces import SEARCHED, completion, full, trace
from eval.metric import extract
from puzzles import Puzzle, challenge
from tokenizers import Tokenizer

from aevo.files.keys import set_key
from tests.stack.conftest import SUBSTRATE

PRESETS = {name: puzzles.load_preset(name) for name in ("tiny", "challenge")}
DRAWN = {
    (name, domain): puzzles.draw(preset, domain, 250, 11, "train")
    for name, preset in PRESETS.items()
    for domain in ("bits", "equation")
}
# Bytes of train.jsonl by the default recipe with 600 rows, before these styles were there.
DEFAULT = {
    ("tiny", 7, "none"): "0817edb22d427eee21be5a504c8da63ae4be51622dfdc4df68eeb7cb21dc1a2c",
    ("tiny", 7, "full"): "db68723707bb2c1b9140243ebf81c106f7446abaa57fb835fe28606f7560629b",
    ("challenge", 3, "none"): "3c48cb38ffadf696189d23279ddaca03abaf82288c389caf421a2200cce958d7",
    ("challenge", 3, "full"): "6277fac952cb5a4ae363a301505f0e2abd6db34834050509e7be5366d510f0c2",
}


def searched(name: str, domain: str, style: str) -> list[tuple[Puzzle, str]]:
    """The puzzles for which the style finds the answer, with their traces."""
    found = [(puzzle, trace(puzzle, style)) for puzzle in DRAWN[name, domain]]
    return [(puzzle, text) for puzzle, text in found if text != full(puzzle)]


@pytest.mark.parametrize(
    ("name", "style", "share"),
    [
        ("tiny", "bases", 1.0),
        ("tiny", "enumerate", 1.0),
        ("tiny", "recall", 1.0),
        ("challenge", "bases", 0.95),
        ("challenge", "enumerate", 0.35),  # the other half is in symbols, and some only guessed
        ("challenge", "recall", 0.5),
    ],
)
def test_the_text_alone_leads_to_the_very_answer(name: str, style: str, share: float) -> None:
    domain = SEARCHED[style][0]
    found = searched(name, domain, style)
    assert len(found) >= share * len(DRAWN[name, domain])
    for puzzle, text in found:
        assert replay.answer(text) == puzzle.answer, text
    for puzzle in DRAWN[name, domain]:
        whole = completion(puzzle, style)
        assert extract(whole) == puzzle.answer
        assert whole.endswith(f"\n\\boxed{{{puzzle.answer}}}")


def test_every_symbolic_row_that_is_solved_blind_is_recalled() -> None:
    preset = PRESETS["challenge"]
    kinds: Counter[tuple[bool, bool]] = Counter()
    for puzzle in DRAWN["challenge", "equation"]:
        solved = puzzles.solve(puzzle.prompt, "equation", preset) == puzzle.answer
        text = trace(puzzle, "recall")
        if solved and puzzle.meta["symbolic"]:
            kinds[True, "recall " in text and replay.answer(text) == puzzle.answer] += 1
    assert kinds[True, True] >= 25
    assert kinds[True, False] <= 0.1 * kinds[True, True]  # another rule gives the answer


def broken(text: str, rng: random.Random) -> Iterator[str]:
    """The trace with one bit or digit of a line made another, once for every line that has one."""
    lines = text.splitlines()
    for place, line in enumerate(lines):
        digits = [index for index, letter in enumerate(line) if letter.isdigit()]
        if not digits:
            continue
        index = rng.choice(digits)
        other = "1" if line[index] == "0" else "0"
        yield "\n".join(
            [*lines[:place], line[:index] + other + line[index + 1 :], *lines[place + 1 :]]
        )


@pytest.mark.parametrize("style", SEARCHED)
def test_a_false_line_does_not_pass(style: str) -> None:
    rng, tried, believed = random.Random(5), 0, []
    for puzzle, text in searched("challenge", SEARCHED[style][0], style)[:60]:
        for other in broken(text, rng):
            tried += 1
            if replay.answer(other) == puzzle.answer:
                believed.append((text, other))
    assert tried > 400
    # a bit of the query that none of the bases sees, for one, may be any
    assert len(believed) <= 0.03 * tried, believed[0]


def test_a_trace_that_leads_elsewhere_is_not_written() -> None:
    puzzle = DRAWN["challenge", "bits"][0]
    assert trace(puzzle, "bases") != full(puzzle)
    flipped = puzzle.answer.translate(str.maketrans("01", "10"))
    wrong = dataclasses.replace(puzzle, answer=flipped)
    assert trace(wrong, "bases") == full(wrong)


def test_what_a_trace_quotes_is_what_the_prompt_shows() -> None:
    for puzzle, text in searched("challenge", "bits", "bases"):
        lines = [line.replace(" ", "") for line in text.splitlines()]
        for number, (x, y) in enumerate(puzzle.meta["examples"], 1):
            assert any(s.startswith(f"{number}:{x};") and s.endswith(f"={y}") for s in lines)
        assert f"query{puzzle.meta['query']}" in lines


def test_other_domains_write_the_steps_of_full() -> None:
    for style, (domain, _) in SEARCHED.items():
        for other in puzzles.DOMAINS:
            puzzle = puzzles.draw(PRESETS["challenge"], other, 1, 2, "train")[0]
            if other != domain:
                assert trace(puzzle, style) == full(puzzle)


def test_each_bit_is_a_token_and_every_word_is_known_to_the_base() -> None:
    tokenizer = Tokenizer.from_file(str(SUBSTRATE / "base" / "tiny" / "tokenizer.json"))
    for name in PRESETS:
        puzzle, text = searched(name, "bits", "bases")[0]
        line = text.splitlines()[-1].removeprefix("answer ")
        bits = [
            t
            for t in tokenizer.encode(line, add_special_tokens=False).tokens
            if t not in (" ", "Ġ")
        ]
        assert bits == list(puzzle.answer)
    for style, (domain, _) in SEARCHED.items():
        for _, text in searched("tiny", domain, style)[:40]:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            assert tokenizer.decode(ids) == text


def test_real_rows_that_were_solved_are_searched_too() -> None:
    rows = [
        challenge.read(puzzle.prompt, puzzle.answer)
        for domain in ("bits", "equation")
        for puzzle in DRAWN["challenge", domain][:80]
    ]
    known, styles = challenge.learn(rows), Counter[str]()
    for row in rows:
        found = challenge.explain(row, known)
        solved = found is not None and found[0] == row.answer
        meta = row.meta | {"real": True, "solved": solved} | (found[1] if found and solved else {})
        style = "bases" if row.domain == "bits" else "recall"
        text, used = written(dataclasses.replace(row, meta=meta), style)
        assert extract(text) == row.answer
        steps = text.rpartition("\n")[0]
        styles[used if replay.answer(steps) == row.answer else "less"] += 1
    assert styles["bases"] >= 75 and styles["recall"] >= 35


@pytest.mark.parametrize(("name", "seed", "style"), DEFAULT)
def test_recipes_of_before_give_the_bytes_that_they_gave(name: str, seed: int, style: str) -> None:
    recipe: dict[str, Any] = load_recipe(SUBSTRATE / "recipe.yaml")
    assert recipe["data"]["trace"] == {"style": "none", "fraction": 1.0, "domains": {}}
    set_key(recipe, "data.examples", 600)
    set_key(recipe, "data.trace.style", style)
    rows, _ = build(recipe, PRESETS[name], seed)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    assert hashlib.sha256(lines.encode()).hexdigest() == DEFAULT[name, seed, style]


def test_the_styles_reach_the_rows_of_their_domains() -> None:
    recipe: dict[str, Any] = load_recipe(SUBSTRATE / "recipe.yaml")
    set_key(recipe, "data.examples", 240)
    set_key(recipe, "data.trace.domains", {"bits": "bases", "equation": "recall"})
    rows, _ = build(recipe, PRESETS["challenge"], 3)
    sources = Counter((row["domain"], row["source"]) for row in rows)
    assert sources["bits", "generator:bases"] >= 35
    assert sources["equation", "generator:recall"] >= 10
    assert sources["unit", "generator:none"] >= 30
    for row in rows:
        if row["source"] in ("generator:bases", "generator:recall"):
            assert replay.answer(row["completion"].rpartition("\n")[0]) == row["answer"]
