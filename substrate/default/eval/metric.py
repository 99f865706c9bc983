"""The challenge's metric: what counts as the given answer, and whether it is right.

Both rules are the competition's own, oddities included: text after the box that contains a brace
spoils it, and numbers get one per cent of slack. Score with these; validate training data exactly.
"""

from __future__ import annotations

import math
import re

NOT_FOUND = "NOT_FOUND"
BOX = r"\boxed{"
PHRASES = (r"The final answer is:\s*([^\n]+)", r"Final answer is:\s*([^\n]+)",
           r"Final answer\s*[:：]\s*([^\n]+)", r"final answer\s*[:：]\s*([^\n]+)")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
BINARY = re.compile(r"[01]+")


def extract(output: str) -> str:
    """The answer that an output gives, by the first rule that finds one.

    1. For each box the text up to the last closing brace before the next box or the end; the last
       one that is not empty. 2. After a "final answer" phrase, the last match. 3. The last number.
    4. The last line that is not empty, else NOT_FOUND.
    """
    boxed = [text for text in _boxes(output) if text]
    if boxed:
        return boxed[-1]
    for phrase in PHRASES:
        found = re.findall(phrase, output, re.IGNORECASE)
        if found:
            return str(found[-1]).strip()
    numbers = NUMBER.findall(output)
    if numbers:
        return str(numbers[-1])
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else NOT_FOUND


def has_box(output: str) -> bool:
    """True if some box holds an answer."""
    return any(_boxes(output))


def verify(gold: str, given: str) -> bool:
    """Whether a given answer counts as right.

    Binary strings must be equal to the letter; else numbers within rel 1e-2 or abs 1e-5; else
    text, upper and lower case alike.
    """
    gold, given = gold.strip(), given.strip()
    if BINARY.fullmatch(gold):
        return given == gold
    try:
        return math.isclose(float(gold), float(given), rel_tol=1e-2, abs_tol=1e-5)
    except ValueError:
        return gold.casefold() == given.casefold()


def _boxes(output: str) -> list[str]:
    found = []
    for piece in output.split(BOX)[1:]:
        end = piece.rfind("}")
        if end >= 0:
            found.append(piece[:end].strip())
    return found
