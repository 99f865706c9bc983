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
        ("0101", "0101", True), ("0101", "101", False), ("10", "10.0", False),
        ("100.5", "101.4", True), ("100.5", "101.6", False), ("0.0", "0.00001", True),
        ("XIV", "xiv", True), ("XIV", " XIV ", True), ("XIV", "XV", False),
        ("queen sees", "Queen Sees", True), ("42", "forty-two", False), ("-5", "-5.01", True),
        ("nan", "nan", False),
    ],
)
def test_verification(gold: str, given: str, right: bool) -> None:
    assert verify(gold, given) is right
