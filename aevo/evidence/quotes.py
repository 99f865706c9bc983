"""Does a text quote only figures that the evidence has, and only candidates of its round?

Every word with a digit must be a known name or a number that matches a figure within the rounding
it is written with. A figure that belongs to a candidate counts only in a sentence that cites the
candidate. Numbers may be written as fractions (0.731), per cent (73.1 %) or points (+4.1 points);
a sign, if there is one, must be right. Counts up to the number of candidates are free.

Not checked: numbers spelled out, and whether the words around a figure are true of it.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aevo.records.change import Change
from aevo.records.evidence import SECTIONS, CandidateSummary, Evidence

SHORTEST, LONGEST, LONGER_PER_CANDIDATE = 30, 1500, 150  # characters of one section
MOST_FAULTS = 12  # reasons told at once
INTERVAL = 0.95  # the level of all intervals

_CANDIDATE = re.compile(r"\bc\d{2,}\b")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_SPAN = re.compile(r"`([^`\n]{1,400})`")
_WORD = re.compile(r"[^\s()\[\]{},;:=<>/|\"“”'‘’`*~≈±≤≥]+")
_NUMBER = re.compile(r"([+\-−–]?)(\d+(?:\.\d+)?|\.\d+)(?:[eE](-\d{1,2}))?(%|-points?|pp)?")
_RANGE = re.compile(r"(\d*\.?\d+%?)[-–](\d*\.?\d+%?)")
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")
_UNIT = re.compile(r"[\s\u00a0]?(%|percent\b|per cent\b|(?:percentage )?points?\b|pp\b)")
_NAME = re.compile(r"[A-Za-z][\w\-]{0,59}")
_PIECE = re.compile(r"\w+(?:\.\w+)+=[^`\n]{1,80}|[\w./\-]{1,120} edited")


class Figure(NamedTuple):
    """A number that may be quoted; `who` is the candidate that a sentence must cite for it."""

    value: float
    who: str | None = None


@dataclass(frozen=True)
class Sources:
    """What a text may draw on: candidates, names with digits, code spans, counts up to `count`."""

    candidates: frozenset[str]
    names: frozenset[str]
    spans: frozenset[str]
    count: int
    figures: tuple[Figure, ...] = field(default=())


def sources(
    evidence: Evidence,
    figures: Iterable[Figure],
    names: Iterable[str] = (),
    changes: Iterable[Change] = (),
) -> Sources:
    """The round's candidates and names with these figures; `names`, `changes` come on top."""
    known = {*names}
    everything = list(changes)
    for item in evidence.candidates:
        known |= {*(item.axis, item.category, item.move), *item.domains}  # type: ignore[arg-type]
        known |= set((item.checkpoint or "").replace(",", " ").split())
        everything += [item.change, *(run.change for run in item.runs)]
    words = {name for name in known if name and _NAME.fullmatch(name)}
    pieces = {piece for change in everything for piece in change.summary().split("; ")}
    return Sources(
        candidates=frozenset(item.candidate for item in evidence.candidates),
        names=frozenset(words),
        spans=frozenset(words | {piece for piece in pieces if _PIECE.fullmatch(piece)}),
        count=max(len(evidence.candidates), evidence.round),
        figures=tuple(figures),
    )


def section_figures(evidence: Evidence) -> dict[str, list[Figure]]:
    """Per section, the figures that its prose may quote."""
    own = [
        Figure(value, item.candidate)
        for item in evidence.candidates
        for value in _of_candidate(item)
    ]
    found = evidence.calibration
    shared = [Figure(value) for value in (INTERVAL, found.dev_band, found.lb_noise)]
    held = evidence.patterns.model_dump(include={"gain_by_category", "weak_share", "stacked"})
    patterns = [Figure(value) for value in _numbers(held)]
    calibration = [Figure(value) for value in _numbers(found.model_dump())]
    basis = own + shared
    return {
        "candidates": basis,
        "patterns": basis + patterns,
        "calibration": basis + calibration,
        "surprises": basis + patterns + calibration,
        "audit": basis,
    }


def prose_faults(sections: Mapping[str, str], evidence: Evidence) -> list[str]:
    """Why this prose cannot stand beside the evidence; empty if it can."""
    faults = [f"{name}: no such section" for name in sections if name not in SECTIONS]
    longest = LONGEST + LONGER_PER_CANDIDATE * len(evidence.candidates)
    for name, figures in section_figures(evidence).items():
        text = sections.get(name, "")
        if not SHORTEST <= len(text.strip()) <= longest:
            faults.append(
                f"{name}: {len(text.strip())} characters, {SHORTEST} to {longest} are asked for"
            )
        if any(not (c.isprintable() or c == "\n") for c in text):
            faults.append(f"{name}: it holds control characters")
        faults += [f"{name}: {fault}" for fault in text_faults(text, sources(evidence, figures))]
    mentioned = set(_CANDIDATE.findall(sections.get("candidates", "")))
    missing = [c.candidate for c in evidence.candidates if c.candidate not in mentioned]
    if missing:
        faults.append(f"candidates: nothing is said of {', '.join(missing)}")
    return faults[:MOST_FAULTS]


def text_faults(text: str, known: Sources, cited: Collection[str] = ()) -> list[str]:
    """Words with digits that are neither names nor figures, each with what is wrong.

    Args:
        cited: candidates that the whole text is about.
    """
    strange = {c for c in text if c.isnumeric() and not c.isascii()}
    faults = [f"write numbers in plain digits, not {''.join(sorted(strange))}"] if strange else []
    for sentence in _SENTENCE.split(text):
        here = {*cited, *_CANDIDATE.findall(sentence)}
        bare = _SPAN.sub(lambda m: " " if _known(m[1], known) else f" {m[1]} ", sentence)
        for word, unit in _words(bare):
            fault = _fault(word, unit, here, known)
            if fault:
                faults.append(f"{fault} (in “{sentence.strip()[:80]}”)")
    return faults


def _known(span: str, known: Sources) -> bool:
    """True if a code span is a name, or a change as its candidate has it: one piece, or a list."""
    return all(piece in known.spans for piece in span.split("; "))


def quotes_any(text: str) -> bool:
    """True if the text has a number that is not a mere count (a sign, a point, or a unit)."""
    for word, unit in _words(text):
        match = _NUMBER.fullmatch(word)
        if match and (match[1] or "." in match[2] or match[3] or match[4] or unit):
            return True
    return False


def policy_figures(values: Any) -> list[Figure]:
    """Every number in a dumped record, as figures of nobody in particular."""
    return [Figure(value) for value in _numbers(values)]


def _words(text: str) -> Iterator[tuple[str, str]]:
    """Words with a digit, each with the unit that follows it."""
    for match in _WORD.finditer(text):
        word = match[0].rstrip(".!?…")
        if any(c.isdigit() for c in word):
            unit = _UNIT.match(text, match.end()) if match[0] == word else None
            yield word, unit[1] if unit else ""


def _fault(word: str, unit: str, cited: Collection[str], known: Sources) -> str | None:
    if _CANDIDATE.fullmatch(word):
        return None if word in known.candidates else f"{word} is no candidate of this round"
    if word in known.names:
        return None
    ordinal = _ORDINAL.fullmatch(word)
    if ordinal:
        return None if int(ordinal[1]) <= known.count else f"{word} is no count of this round"
    span = _RANGE.fullmatch(word)
    for part in span.groups() if span else (word,):
        match = _NUMBER.fullmatch(part)
        if match is None:
            return f"{word[:60]} is neither a name nor a figure of this evidence"
        fault = _number_fault(match, unit, cited, known)
        if fault:
            return fault
    return None


def _number_fault(
    match: re.Match[str], unit: str, cited: Collection[str], known: Sources
) -> str | None:
    sign, body, exponent, attached = match.groups()
    shown = f"{match[0]}{f' {unit}' if unit else ''}"
    plain = not (sign or exponent or attached or unit or "." in body)
    if len(body) > 18:
        return f"{shown[:60]} is no figure"
    if plain and int(body) <= known.count:
        return None
    shift = int(exponent or 0) - (2 if attached or unit else 0)
    decimals = len(body.partition(".")[2]) - shift
    value, slack = float(f"{body}e{shift}"), 0.5 * 10.0**-decimals + 1e-9

    def fits(figure: Figure) -> bool:
        if not sign:
            return abs(abs(figure.value) - value) <= slack
        return abs(figure.value - (value if sign == "+" else -value)) <= slack

    fitting = [figure for figure in known.figures if fits(figure)]
    if any(figure.who is None or figure.who in cited for figure in fitting):
        return None
    owners = sorted({figure.who for figure in fitting if figure.who})
    if owners:
        return (
            f"{shown} is no figure of {_listed(cited)}; if you mean {_listed(owners)}, cite "
            "that in the same sentence"
        )
    return f"{shown} is no figure of this section"


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"[{name}]" for name in sorted(names)[:4]) or "the section as a whole"


def _of_candidate(item: CandidateSummary) -> Iterator[float]:
    """Its measured numbers; none from its recipe, its claims or its failures' texts."""
    yield from _numbers([item.dev, item.lb, item.lb_gain, item.domains])
    for part in (item.comparison, item.readings, item.effect, item.external):
        if part is not None:
            yield from _numbers(part.model_dump())
    yield from _numbers([[run.dev, run.gain] for run in item.runs])


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield float(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _numbers(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
