"""Texts the tiny base is made from: example lists, and questions with answers, of the six domains.

Questions are of the split `train` only. Example lists teach to infer a rule from its examples, many
answers a document; questions with answers teach the chat format, directly and with traces of all
styles.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import puzzles
from data import traces
from puzzles import DOMAINS, Preset, Puzzle, numeral

from base.tokenizer import ASSISTANT, BOS, EOS, USER

Parts = list[tuple[str, bool]]  # (text, whether it is learned), in order

STYLES = ("short", "full")
# Example lists: how many pairs, and forms that are easier than the benchmark's own.
LISTS: dict[str, list[dict[str, Any]]] = {
    "bits": [{"examples": [8, 8], "width": 8}, {"examples": [8, 8], "width": 4}],
    "gravity": [{"examples": [6, 6]}],
    "unit": [{"examples": [8, 8]}],
    "numeral": [{"examples": [4, 4]}],
    "cipher": [{"examples": [10, 10]}],
    "equation": [{"examples": [9, 9]}],
}
# Shares of the documents: what is found late gets more of them.
WEIGHTS = {"bits": 1.3, "gravity": 1.0, "unit": 1.0, "numeral": 1.0, "cipher": 1.5, "equation": 1.0}
# The base knows every operator, the narrow training data of the default recipe four of them.
OVERRIDES = {"equation": {"operators": "broad"}}


def tokenizer_texts(preset_name: str) -> Iterator[str]:
    """Texts whose words, numbers and symbols the vocabulary must hold."""
    preset = puzzles.load_preset(preset_name)
    for domain in DOMAINS:
        overrides = OVERRIDES.get(domain, {})
        for puzzle in puzzles.draw(preset, domain, 300, 0, "train", **overrides):
            for style in STYLES:
                yield puzzle.prompt + "\n" + traces.completion(puzzle, style)
    for _ in range(3):
        yield from (numeral.words(n) for n in range(1, 4000))
        yield from (format(n, "04b") for n in range(16))
        yield from (str(n) for n in range(1000))


def pretraining_texts(
    preset_name: str, count: int, rng: random.Random, chat: float, traced: float
) -> list[Parts]:
    """`count` documents: a share `chat` with questions, of which a share `traced` has traces."""
    preset = puzzles.load_preset(preset_name)
    documents: list[Parts] = []
    while len(documents) < count:
        domain = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if rng.random() >= chat:
            documents.append(example_list(preset, domain, rng))
            continue
        puzzle = puzzles.generate(preset, domain, rng, **OVERRIDES.get(domain, {}))
        if puzzles.split_of(puzzle.prompt) == "train":
            style = rng.choice(STYLES) if rng.random() < traced else "none"
            documents.append(conversation(puzzle, style))
    return documents


def conversation(puzzle: Puzzle, style: str) -> Parts:
    """A question and its answer as the chat template writes them; the answer is learned."""
    answer = traces.completion(puzzle, style) + EOS
    return [(USER + puzzle.prompt + ASSISTANT, False), (answer, True)]


def example_list(preset: Preset, domain: str, rng: random.Random) -> Parts:
    """Many pairs of one rule; every answer is learned but the first, which nothing foretells."""
    overrides = {**OVERRIDES.get(domain, {}), **rng.choice(LISTS[domain])}
    puzzle = puzzles.generate(preset, domain, rng, **overrides)
    head, *_ = puzzle.prompt.splitlines()
    pairs = [*puzzle.meta["examples"], (puzzle.meta["query"], puzzle.answer)]
    parts: Parts = [(BOS + head, False)]
    for index, (question, answer) in enumerate(pairs):
        parts += [(f"\n{question} -> ", False), (answer, index > 0 or domain == "numeral")]
    return [*parts, (EOS, True)]
