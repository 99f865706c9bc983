"""The challenge's answer extraction and scoring rule, oddities included."""

import pytest
from eval.metric import NOT_FOUND, extract, has_box, verify


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        (r"so \boxed{42}", "42"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{1} then \boxed{}", "1"),
        (r"\boxed{a{b}c}", "a{b}c"),
        (r"\boxed{7} and a set {x}", "7} and a set {x"),
        (r"\boxed{7", "7"),
        (r"\boxed{ spaced }", "spaced"),
        ("The final answer is: 12 apples", "12 apples"),
        ("FINAL ANSWER: XIV", "XIV"),
        ("Final answer：7", "7"),
        ("Final answer: 1\nFinal answer: 2", "2"),
        ("first 3 then -4.5 units", "-4.5"),
        ("no figure\n last line \n\n", "last line"),
        ("", NOT_FOUND),
        (r"\boxed{} the value 9", "9"),
    ],
)
def test_extraction_takes_the_first_rule_that_finds_one(output: str, answer: str) -> None:
    assert extract(output) == answer


def test_empty_or_open_box_is_no_box() -> None:
    assert has_box(r"\boxed{1}")
    assert not has_box(r"\boxed{}") and not has_box(r"\boxed{1") and not has_box("1")


@pytest.mark.parametrize(
    ("gold", "given", "right"),
    [
        ("0101", "0101", True),
        ("0101", "101", False),
        ("10", "10.0", False),
        ("100.5", "101.4", True),
        ("100.5", "101.6", False),
        ("0.0", "0.00001", True),
        ("XIV", "xiv", True),
        ("XIV", " XIV ", True),
        ("XIV", "XV", False),
        ("queen sees", "Queen Sees", True),
        ("42", "forty-two", False),
        ("-5", "-5.01", True),
        ("nan", "nan", False),
    ],
)
def test_verification(gold: str, given: str, right: bool) -> None:
    assert verify(gold, given) is right


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        (r"\boxed{'\"[}", "'\\\"["),  # a symbolic answer, as it stands
        (r"\boxed{{}[}", "{}["),
        (r"\boxed{}}}", "}}"),
        (r"\boxed{a} \boxed{b", "a"),  # the last box is open: the one before counts
        ("\\boxed{XIV}\n</think>\n\\boxed{XV}<|im_end|>", "XV"),
        (r"\boxed{your answer} is asked for; \boxed{0101}.", "0101"),
        (r"\boxed{0101} where f = {x}", "0101} where f = {x"),
        ("\\boxed{two\nlines}", "two\nlines"),
        (r"\boxed {7} and 8", "8"),  # no box with a space in it
        (r"\\boxed{7}", "7"),
        (r"\boxed{\boxed{7}}", "7}"),
        ("the FINAL ANSWER is: 12", "12"),
        ("the final answer is:\n\n 12 m\n13", "12 m"),
        ("Final answer : 3\nThe final answer is: 4\nFinal answer: 5", "4"),
        ("The final answer is 12. Or 13", "13"),
        ("final answer: \\boxed{}", "\\boxed{}"),
        ("about 1,234.5 or .5", "5"),
        ("- 7 then --8", "-8"),
        ("1e-3", "-3"),
        ("\n \n", NOT_FOUND),
    ],
)
def test_extraction_keeps_the_oddities(output: str, answer: str) -> None:
    assert extract(output) == answer


@pytest.mark.parametrize(
    ("gold", "given", "right"),
    [
        ("00110100", "110100", False),
        ("0", "0.0", False),
        ("1", "1.0", False),
        ("11", "11.05", False),
        ("10", "10.05", False),
        ("12", "12.1", True),
        ("12", "12.13", False),
        ("0724", "724", True),
        ("-18", "18", False),
        ("14.92", "14.92 m", False),
        ("1e2", "100", True),
        ("queen", "queen ", True),
        ("{}[", "{}[", True),
        ("ab", "a b", False),
        ("inf", "INF", True),
        ("", "", True),
    ],
)
def test_verification_keeps_the_oddities(gold: str, given: str, right: bool) -> None:
    assert verify(gold, given) is right
