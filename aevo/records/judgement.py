"""judgement.json: what a trusted look at diff, data and trace of a run found to be suspect."""

from typing import Literal

from aevo.files.documents import Part, Record
from aevo.files.words import Line, Several, Words

Rule = Literal[
    "seed",
    "shopping",
    "made in training",
    "outside",
    "outlives",
    "hidden code",
    "table",
    "more than the recipe",
    "looked for items",
    "trained in the shell",
    "model",
]


class Flag(Part):
    """One suspicion: which rule, what it means, and the lines that it rests on."""

    rule: Rule
    text: Line
    evidence: Several


class Opinion(Part):
    """What a language model was asked of the same run. `author` says who answered, or why nobody
    did; a model that stays away flags nothing."""

    author: Line
    dollars: float | None = 0.0


class Judgement(Record):
    """The judge's look at one run. With a flag the run counts for nothing until it is cleared."""

    run: int
    flags: list[Flag] = []
    opinion: Opinion | None = None


class Clearance(Record):
    """A person's decision that a flagged run is honest; written once."""

    run: int
    flags: int
    by: Line
    reason: Words
    time: str


class Cleared(Part):
    """A clearance that the evidence of a round took into account."""

    candidate: str
    run: int
    by: Line
    reason: Words


class Clearances(Record):
    """clearances.json: those there were when the collector began. Evidence rests on these alone:
    a later one changes no round that has ended."""

    round: int
    cleared: list[Cleared] = []
