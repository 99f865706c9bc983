"""Prompt texts, in two styles, and reading them back.

`challenge` is the competition's wording, to the letter; `terse` is the tiny model's, for which
every token costs: a head, `x -> y` lines and the query `x -> ?`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Pairs = list[tuple[str, str]]

TERSE = {
    "bits": "A rule maps bit strings.",
    "gravity": "Distance fallen d after time t.",
    "unit": "A unit is converted by a factor.",
    "numeral": "Write the number in roman numerals.",
    "cipher": "A cipher maps words.",
    "equation": "A symbol is an operation.",
}
OPENING = "In Alice's Wonderland, "
# What the competition's scorer appends to every prompt before the model sees it.
SUFFIX = ("\nPlease put your final answer inside `\\boxed{}`. "
          "For example: `\\boxed{your answer}`")


@dataclass(frozen=True)
class Wording:
    """How one domain's challenge prompt reads; {x}, {y} are an example's, {q} the query."""

    head: str
    example: str
    query: str


CHALLENGE = {
    "bits": Wording(
        "a secret bit manipulation rule transforms 8-bit binary numbers. The transformation "
        "involves operations like bit shifts, rotations, XOR, AND, OR, NOT, and possibly majority "
        "or choice functions.\n\nHere are some examples of input -> output:\n",
        "{x} -> {y}", "Now, determine the output for: {q}",
    ),
    "gravity": Wording(
        "the gravitational constant has been secretly changed. "
        "Here are some example observations:\n",
        "For t = {x}s, distance = {y} m",
        "Now, determine the falling distance for t = {q}s given d = 0.5*g*t^2.",
    ),
    "unit": Wording(
        "a secret unit conversion is applied to measurements. For example:\n",
        "{x} m becomes {y}", "Now, convert the following measurement: {q} m",
    ),
    "numeral": Wording(
        "numbers are secretly converted into a different numeral system. "
        "Some examples are given below:\n",
        "{x} -> {y}", "Now, write the number {q} in the Wonderland numeral system.",
    ),
    "cipher": Wording(
        "secret encryption rules are used on text. Here are some examples:\n",
        "{x} -> {y}", "Now, decrypt the following text: {q}",
    ),
    "equation": Wording(
        "a secret set of transformation rules is applied to equations. "
        "Below are a few examples:\n",
        "{x} = {y}", "Now, determine the result for: {q}",
    ),
}


def prompt(domain: str, examples: Pairs, query: str, style: str = "terse") -> str:
    """The prompt of a puzzle.

    Raises:
        KeyError: unknown domain; ValueError: unknown style.
    """
    if style == "terse":
        return "\n".join([TERSE[domain], *(f"{x} -> {y}" for x, y in examples), f"{query} -> ?"])
    if style != "challenge":
        raise ValueError(f"style={style!r}: terse or challenge")
    words = CHALLENGE[domain]
    lines = "\n".join(words.example.format(x=x, y=y) for x, y in examples)
    return f"{OPENING}{words.head}{lines}\n\n{words.query.format(q=query)}"


def asked(prompt: str) -> str:
    """The user's message that asks a prompt: one in the challenge's words gets its suffix."""
    return prompt + SUFFIX if style_of(prompt) == "challenge" else prompt


def style_of(prompt: str) -> str:
    """The style in which a prompt is written."""
    return "challenge" if prompt.startswith(OPENING) else "terse"


def parse(prompt: str, domain: str) -> tuple[Pairs, str]:
    """Examples and query of a prompt of either style, with or without the suffix.

    Raises:
        ValueError: it is no prompt of that domain.
    """
    if style_of(prompt) == "terse":
        lines = [line.split(" -> ") for line in prompt.splitlines() if " -> " in line]
        if not lines:
            raise ValueError("no line of the form `x -> y`")
        return [(x, y) for x, y in lines[:-1]], lines[-1][0]
    words = CHALLENGE[domain]
    prompt = prompt.removesuffix(SUFFIX)
    body = prompt.removeprefix(OPENING + words.head)
    block, _, last = body.rpartition("\n\n")
    asked = _pattern(words.query).fullmatch(last)
    pairs = [_pattern(words.example).fullmatch(line) for line in block.splitlines()]
    if body == prompt or asked is None or None in pairs:
        raise ValueError(f"not a prompt of {domain}")
    return [(m["x"], m["y"]) for m in pairs if m is not None], asked["q"]


def _pattern(template: str) -> re.Pattern[str]:
    escaped = re.escape(template)
    for name in "xyq":
        escaped = escaped.replace(re.escape("{" + name + "}"), f"(?P<{name}>.+?)")
    return re.compile(escaped)
