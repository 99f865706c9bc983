"""Puzzles: solvable, split without overlap, in the challenge's words, shifted where they say."""

import random
import re
from collections import Counter

import puzzles
import pytest
from eval.items import items
from eval.metric import verify
from puzzles import DOMAINS, cryptarithm, decipher, numeral, text

TINY, CHALLENGE = puzzles.load_preset("tiny"), puzzles.load_preset("challenge")
# Share of puzzles that the blind solver must answer to the challenge's metric. Symbolic equations
# are ambiguous, and an operator that is in no example cannot be known.
SOLVABLE = {
    "tiny": dict.fromkeys(DOMAINS, 1.0),
    "challenge": {
        "bits": 0.95,
        "gravity": 0.99,
        "unit": 0.99,
        "numeral": 1.0,
        "cipher": 0.97,
        "equation": 0.42,
    },
}


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("preset", [TINY, CHALLENGE], ids=lambda preset: preset.name)
def test_solver_finds_the_answer_from_the_prompt_alone(preset: puzzles.Preset, domain: str) -> None:
    drawn = puzzles.draw(preset, domain, 60, seed=5, split="train")
    solved = [puzzles.solve(puzzle.prompt, domain, preset) for puzzle in drawn]
    right = sum(
        found is not None and verify(puzzle.answer, found)
        for puzzle, found in zip(drawn, solved, strict=True)
    )
    assert len(drawn) == 60
    assert right / 60 >= SOLVABLE[preset.name][domain]


@pytest.mark.long(3)
@pytest.mark.parametrize(
    ("form", "operators", "right", "wrong"),
    [
        ("numeric", "narrow", 0.94, 0.06),
        ("numeric", "broad", 0.88, 0.12),
        ("symbolic", "narrow", 0.25, 0.10),
        ("symbolic", "broad", 0.18, 0.10),
    ],
)
def test_challenge_equations_with_a_shown_operator_are_solved(
    form: str, operators: str, right: float, wrong: float
) -> None:
    drawn = puzzles.draw(
        CHALLENGE, "equation", 120, 12, "train", form=form, guess=0.0, operators=operators
    )
    pairs = [
        (puzzle.answer, puzzles.solve(puzzle.prompt, "equation", CHALLENGE)) for puzzle in drawn
    ]
    assert sum(gold == given for gold, given in pairs) >= right * len(pairs)
    assert sum(given is not None and gold != given for gold, given in pairs) <= wrong * len(pairs)


def test_an_operator_that_no_example_shows_is_not_guessed() -> None:
    for puzzle in puzzles.draw(CHALLENGE, "equation", 10, 1, "train", guess=1.0):
        assert puzzle.meta["guess"]
        assert puzzles.solve(puzzle.prompt, "equation", CHALLENGE) is None


def test_symbolic_equation_is_read_whatever_its_glyphs() -> None:
    assert decipher.solve([("!*[{<", "!*{<"), ("<{[!*", "<{!*")], "**[<!") == "**<!"
    assert decipher.solve([("!*[{<", "!*{<")], "**?<!") is None  # another operator


def test_solver_is_not_told_the_answer_of_a_broken_puzzle() -> None:
    broken = "A unit is converted by a factor.\n3 -> 9\n4 -> 20\n5 -> ?"
    assert puzzles.solve(broken, "unit", TINY) is None
    assert puzzles.solve("A cipher maps words.\nAB -> BD\nA -> ?", "cipher", TINY) is None


def test_splits_never_overlap_and_are_complete() -> None:
    rng = random.Random(0)
    prompts = {puzzles.generate(TINY, domain, rng).prompt for domain in DOMAINS for _ in range(400)}
    shares = Counter(puzzles.split_of(prompt) for prompt in prompts)
    assert set(shares) == {"train", "dev", "hidden"}
    assert 0.75 < shares["train"] / len(prompts) < 0.85
    for split in ("train", "dev", "hidden"):
        for puzzle in puzzles.draw(TINY, "equation", 40, 3, split):
            assert puzzles.split_of(puzzle.prompt) == split


def test_drawing_is_repeatable_and_seeds_differ() -> None:
    first, again = (puzzles.draw(TINY, "bits", 20, 1, "dev") for _ in range(2))
    other = puzzles.draw(TINY, "bits", 20, 2, "dev")
    assert first == again != other


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("preset", [TINY, CHALLENGE], ids=lambda preset: preset.name)
def test_prompt_reads_back_as_it_was_written(preset: puzzles.Preset, domain: str) -> None:
    for puzzle in puzzles.draw(preset, domain, 30, seed=1, split="dev"):
        examples, query = text.parse(puzzle.prompt, domain)
        assert (examples, query) == (puzzle.meta["examples"], puzzle.meta["query"])


def test_challenge_prompts_are_the_competitions_words() -> None:
    beginning = {
        "bits": r"a secret bit manipulation rule transforms 8-bit binary numbers\.",
        "gravity": r"the gravitational constant has been secretly changed\.",
        "unit": r"a secret unit conversion is applied to measurements\. For example:",
        "numeral": r"numbers are secretly converted into a different numeral system\.",
        "cipher": r"secret encryption rules are used on text\. Here are some examples:",
        "equation": r"a secret set of transformation rules is applied to equations\.",
    }
    for domain, words in beginning.items():
        for puzzle in puzzles.draw(CHALLENGE, domain, 5, 1, "train"):
            assert re.match(r"In Alice's Wonderland, " + words, puzzle.prompt)
            assert "\n\nNow, " in puzzle.prompt


def test_hidden_distribution_is_shifted_in_mixture_and_in_operators() -> None:
    dev, hidden = (items(TINY, split, 400, 1) for split in ("dev", "hidden"))
    unshifted = items(TINY, "hidden_unshifted", 400, 1)
    count = [Counter(row["domain"] for row in rows) for rows in (dev, hidden, unshifted)]
    assert count[0]["equation"] > 2 * count[1]["equation"]
    assert count[2] == count[0]
    rules = [
        {row["meta"]["rule"] for row in rows if row["domain"] == "equation"}
        for rows in (dev, hidden, unshifted)
    ]
    assert rules[0] == rules[2] and rules[0] < rules[1]
    ids = [{row["id"] for row in rows} for rows in (dev, hidden, unshifted)]
    assert not ids[0] & (ids[1] | ids[2])


@pytest.mark.parametrize("n", [1, 4, 9, 14, 40, 90, 400, 944, 1999, 3888, 3999])
def test_numerals_and_words_are_inverse(n: int) -> None:
    assert numeral.number(numeral.words(n)) == n
    value = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
    letters = [value[letter] for letter in numeral.roman(n)]
    signed = [-a if a < b else a for a, b in zip(letters, [*letters[1:], 0], strict=True)]
    assert sum(signed) == n


@pytest.mark.parametrize(
    ("rule", "a", "b", "expected"),
    [
        (("add", "plain"), "34", "44", "78"),
        (("add", "reversed"), "34", "44", "78"),
        (("sub", "plain"), "12", "30", "-18"),
        (("cat", "plain"), "07", "24", "724"),
        (("mul", "reversed"), "12", "10", "12"),
        (("mod", "plain"), "50", "00", "0"),
    ],
)
def test_equation_rules(rule: tuple[str, str], a: str, b: str, expected: str) -> None:
    assert cryptarithm.evaluate(rule, a, b) == expected


def test_unknown_preset_is_named_with_the_known_ones() -> None:
    with pytest.raises(puzzles.PresetError, match="presets: tiny, challenge"):
        puzzles.load_preset("easy")
