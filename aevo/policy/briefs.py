"""What a brief may say (constitution R11): an axis and why it is worth trying; no other candidate,
and no score.

A number with a decimal point, a per cent or points reads as a score, wherever it comes from: a
figure that a model invents would reach a worker like one that was measured. A value of the recipe
stands between backticks beside its key, which must be one of the axis's: `train.lora.alpha=0.5`.
Whole numbers are free. Not checked: figures spelled out.
"""

import re
from collections.abc import Iterator, Sequence

from aevo.records.policy import AxisBrief
from aevo.substrate.catalogue import Catalogue, overlap

CANDIDATE = re.compile(r"\bc\d{2,}\b")
SCORE = re.compile(
    r"(?<![\w.])[+\-−–]?(?:\d+\.\d+|\.\d+|\d+(?=\s?(?:%|per ?cent|(?:percentage )?points?\b|pp\b)))"
)
SPAN = re.compile(r"`([\w.]+)\s*[=:]\s*[^`\n]{1,80}`")


def scores_in(text: str, knobs: Sequence[str] = ()) -> list[str]:
    """The numbers of a text that read as scores; a value of one of the axis's keys does not."""
    bare = SPAN.sub(lambda m: " " if any(overlap(m[1], knob) for knob in knobs) else m[0], text)
    return [match[0] for match in SCORE.finditer(bare)]


def brief_faults(brief: AxisBrief, catalogue: Catalogue) -> Iterator[str]:
    """What in a brief no worker may be told; the catalogue's own texts are its author's."""
    axis = catalogue.axis(brief.axis)
    texts = [brief.reason, *(text for move in brief.own for text in (move.why, move.title))]
    if not brief.combines and (axis is None or brief.brief.strip() != axis.brief.strip()):
        texts.append(brief.brief)
    whole = " ".join(texts)
    if CANDIDATE.search(whole):
        yield f"axis {brief.axis}: its worker knows no other candidate"
    found = [score for text in texts for score in scores_in(text, brief.knobs)]
    if found:
        yield (
            f"axis {brief.axis}: its worker is told no score ({', '.join(found[:4])}); a recipe's "
            "value goes between backticks with its key, as `train.steps=400`"
        )
