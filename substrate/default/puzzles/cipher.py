"""Text encryption: decrypt a text after a few solved examples.

Knob `kind`: `shift` is the easy form (short upper-case words, moved along the alphabet without
wrapping; read left to right it encrypts); `bijection` is the challenge's, a random substitution of
letters over sentences of a small vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from string import ascii_lowercase as LETTERS
from string import ascii_uppercase as ALPHABET
from typing import Any

from puzzles import text
from puzzles.puzzle import Puzzle, how_many

VOCABULARY = (
    "alice", "ancient", "apple", "beyond", "book", "bright", "castle", "cave", "chases", "clever",
    "clock", "cloud", "creates", "dark", "decodes", "discovers", "door", "dragon", "draws",
    "dreams", "explores", "finds", "flower", "follows", "forest", "found", "garden", "gate",
    "golden", "hatter", "hidden", "imagines", "inside", "island", "key", "king", "knight",
    "library", "magical", "map", "message", "mirror", "mountain", "mouse", "mysterious", "near",
    "ocean", "paints", "palace", "path", "potion", "prince", "princess", "puzzle", "queen",
    "rabbit", "reads", "river", "school", "secret", "sees", "silver", "story", "strange",
    "student", "studies", "teacher", "through", "tower", "treasure", "turtle", "under", "valley",
    "village", "watches", "wise", "wizard", "wonders",
)


def shift(word: str, by: int) -> str:
    """Every letter moved `by` places on; it must stay in the alphabet."""
    return "".join(ALPHABET[ALPHABET.index(letter) + by] for letter in word)


def generate(rng: random.Random, knobs: dict[str, Any]) -> Puzzle:
    """A puzzle with a secret key."""
    if knobs["kind"] == "shift":
        meta, pairs, difficulty = _shift(rng, knobs)
    else:
        meta, pairs, difficulty = _bijection(rng, knobs)
    examples, (query, answer) = pairs[:-1], pairs[-1]
    meta |= {"examples": examples, "query": query}
    return Puzzle("cipher", text.prompt("cipher", examples, query, knobs["style"]), answer, meta,
                  difficulty)


def _shift(
    rng: random.Random, knobs: dict[str, Any]
) -> tuple[dict[str, Any], text.Pairs, float]:
    by = rng.randint(1, len(ALPHABET) - knobs["letters"])
    count = how_many(rng, knobs["examples"])
    words = ["".join(rng.choices(ALPHABET[: knobs["letters"]], k=knobs["word"]))
             for _ in range(count + 1)]
    pairs = [(word, shift(word, by)) for word in words]
    return {"shift": by, "letters": knobs["letters"]}, pairs, by / len(ALPHABET)


def _bijection(
    rng: random.Random, knobs: dict[str, Any]
) -> tuple[dict[str, Any], text.Pairs, float]:
    key = list(LETTERS)
    rng.shuffle(key)
    table = str.maketrans(LETTERS, "".join(key))
    plain = [" ".join(rng.choices(VOCABULARY, k=rng.randint(*knobs["words"])))
             for _ in range(how_many(rng, knobs["examples"]) + 1)]
    seen = set("".join(plain[:-1]))
    unknown = sum(letter not in seen for letter in set(plain[-1]))
    pairs = [(sentence.translate(table), sentence) for sentence in plain]
    return {"key": "".join(key)}, pairs, min(1.0, unknown / 6)


def solve(prompt: str, knobs: dict[str, Any]) -> str | None:
    """The answer from the prompt alone; None if the examples contradict each other or the
    vocabulary leaves more than one reading."""
    examples, query = text.parse(prompt, "cipher")
    if knobs["kind"] == "shift":
        shifts = {ALPHABET.index(b) - ALPHABET.index(a)
                  for x, y in examples for a, b in zip(x, y, strict=True)}
        return shift(query, shifts.pop()) if len(shifts) == 1 else None
    found = explain(examples, query)
    return found[0] if found else None


def explain(
    examples: text.Pairs, query: str, vocabulary: Sequence[str] = VOCABULARY
) -> tuple[str, dict[str, Any]] | None:
    """Answer of the challenge's form, blind; the rule is what the examples show. None if they
    contradict each other or the vocabulary leaves more than one reading."""
    table = letter_table(examples)
    if table is None:
        return None
    if all(letter in table for letter in query):  # no word needs to be guessed
        return "".join(table[letter] for letter in query), {}
    readings = _fill(query.split(), table, vocabulary)
    return (readings.pop(), {}) if len(readings) == 1 else None


def letter_table(examples: text.Pairs) -> dict[str, str] | None:
    """Cipher letter -> plain letter as far as the examples show it; None if they contradict."""
    table: dict[str, str] = {}
    for secret, plain in examples:
        for a, b in zip(secret, plain, strict=True):
            if table.setdefault(a, b) != b:
                return None
    return table


def _fill(words: list[str], table: dict[str, str], vocabulary: Sequence[str]) -> set[str]:
    """All readings of the words in which every word is of the vocabulary and the key stays one
    to one. Words with the fewest fitting entries are decided first."""
    fitting = {
        word: [entry for entry in vocabulary if _extend(word, entry, table) is not None]
        for word in words
    }
    undecided = [item for item in words if any(letter not in table for letter in item)]
    if not undecided:
        reading = ["".join(table[letter] for letter in item) for item in words]
        return {" ".join(reading)} if all(item in vocabulary for item in reading) else set()
    word = min(undecided, key=lambda item: len(fitting[item]))
    found: set[str] = set()
    for entry in fitting[word]:
        extended = _extend(word, entry, table)
        if extended is not None:
            found |= _fill(words, extended, vocabulary)
        if len(found) > 1:
            break
    return found


def _extend(word: str, entry: str, table: dict[str, str]) -> dict[str, str] | None:
    """The table with `word` read as `entry`; None if that contradicts it."""
    if len(word) != len(entry):
        return None
    extended = dict(table)
    for a, b in zip(word, entry, strict=True):
        if extended.setdefault(a, b) != b:
            return None
    return extended if len(set(extended.values())) == len(extended) else None
