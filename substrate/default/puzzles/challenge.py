"""Reading the competition's own rows: a prompt and its answer as one of our puzzles.

`read` knows the six domains in the challenge's words and checks what stands in them, so that a row
in another form is named and never trained on as something it is not. Sub-domains: equations are
numeric or symbolic, and *guess* where no example shows the query's operator, else *deduce*; bit
rules are named after the simplest gate that explains the row; other domains have one.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from puzzles import bits, cipher, cryptarithm, decipher, numeral, text
from puzzles.measured import GRAVITY, UNIT
from puzzles.puzzle import DOMAINS, Puzzle

NUMBER = r"\d+(\.\d+)?"
SUBDOMAINS = (
    *(f"bits_{name.lower()}" for name in (*bits.GATES, "other")), "gravity", "unit", "numeral",
    "cipher", *(f"equation_{form}_{kind}" for form in ("numeric", "symbolic")
                for kind in ("deduce", "guess")),
)


class Unreadable(ValueError):
    """The prompt or its answer is not in a form that is known; the message is a short reason."""


def read(prompt: str, answer: str) -> Puzzle:
    """The puzzle of a row. `meta` has examples, query and `subdomain`, no rule (see `explain`).

    Spaces at the ends of lines are overlooked; the puzzle's prompt is the row's own all the same.

    Raises:
        Unreadable: in none of the six forms, or its content is not of that domain.
    """
    plain = "\n".join(line.rstrip() for line in prompt.strip().splitlines())
    domain = next((name for name in DOMAINS
                   if plain.startswith(text.OPENING + text.CHALLENGE[name].head)), None)
    if domain is None:
        raise Unreadable("no known domain")
    try:
        examples, query = text.parse(plain, domain)
    except ValueError as error:
        raise Unreadable(f"{domain}: not in the known layout") from error
    problem = CHECKS[domain](examples, query, answer) if examples else "no example"
    if problem:
        raise Unreadable(f"{domain}: {problem}")
    meta = {"examples": examples, "query": query,
            "subdomain": _subdomain(domain, examples, query, answer)}
    return Puzzle(domain, prompt, answer, meta, _difficulty(domain, examples, query, answer))


@dataclass(frozen=True)
class Knowledge:
    """What many rows show and no single prompt: the words that encrypted texts are made of, and
    how often a sign of a numeric equation stands for a rule (under "" for any sign)."""

    words: list[str]
    rules: dict[str, Counter[tuple[str, str]]]


def learn(puzzles: Sequence[Puzzle]) -> Knowledge:
    """What training rows teach; of rules, those that explain a numeric row with its answer."""
    words = {word for puzzle in puzzles if puzzle.domain == "cipher"
             for _, plain in puzzle.meta["examples"] for word in plain.split()}
    rules: defaultdict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for puzzle in puzzles:
        if puzzle.meta["subdomain"] == "equation_numeric_deduce":
            found = decipher.explain(puzzle.meta["examples"], puzzle.meta["query"])
            if found is not None and found[0] == puzzle.answer:
                for sign in ("", puzzle.meta["query"][2]):
                    rules[sign][found[1]["rule"], found[1]["mode"]] += 1
    return Knowledge(sorted(words), dict(rules))


def explain(puzzle: Puzzle, known: Knowledge) -> tuple[str, dict[str, Any]] | None:
    """Answer and rule of a puzzle that was read, from its prompt and what other rows taught; None
    if it is not solved. The puzzle's answer is not looked at."""
    examples, query = puzzle.meta["examples"], puzzle.meta["query"]
    if puzzle.domain == "cipher":
        return cipher.explain(examples, query, known.words)
    if puzzle.meta["subdomain"] == "equation_numeric_guess":
        return _guess(query, known)
    if puzzle.domain == "equation":  # of several readings the most frequent: a gold answer follows
        return decipher.explain(examples, query, lead=0.0)
    explained: dict[str, Callable[[text.Pairs, str], tuple[str, dict[str, Any]] | None]] = {
        "bits": bits.explain, "gravity": GRAVITY.explain, "unit": UNIT.explain,
        "numeral": numeral.explain,
    }
    return explained[puzzle.domain](examples, query)


def _guess(query: str, known: Knowledge) -> tuple[str, dict[str, Any]] | None:
    """The likeliest answer to a sign that no example shows, by what it mostly stands for; rules of
    any sign decide where that says nothing."""
    every = known.rules.get("", Counter())
    own = known.rules.get(query[2], Counter())
    a, b = query[:2], query[3:]
    votes: defaultdict[str, float] = defaultdict(float)
    for rule, count in every.items():
        votes[cryptarithm.evaluate(rule, a, b)] += own[rule] + count / every.total()
    if not votes:
        return None
    answer = max(sorted(votes), key=lambda item: votes[item])
    name, mode = max((rule for rule in sorted(every)
                      if cryptarithm.evaluate(rule, a, b) == answer),
                     key=lambda rule: (own[rule], every[rule]))
    return answer, {"rule": name, "mode": mode, "operands": (a, b), "symbolic": False,
                    "guess": True}


def _bits(examples: text.Pairs, query: str, answer: str) -> str | None:
    fits = all(re.fullmatch("[01]{8}", item) for item in _all(examples, query, answer))
    return None if fits else "not all are strings of 8 bits"


def _measured(examples: text.Pairs, query: str, answer: str) -> str | None:
    if not all(re.fullmatch(NUMBER, item) for item in _all(examples, query, answer)):
        return "not all values are numbers"
    return None if all(float(x) for x, _ in examples) else "a value is 0"


def _numeral(examples: text.Pairs, query: str, answer: str) -> str | None:
    numbers, numerals = [query, *(x for x, _ in examples)], [answer, *(y for _, y in examples)]
    fits = (all(item.isdecimal() and 0 < int(item) < 4000 for item in numbers)
            and all(re.fullmatch("[IVXLCDM]+", item) for item in numerals))
    return None if fits else "not numbers and Roman numerals"


def _cipher(examples: text.Pairs, query: str, answer: str) -> str | None:
    pairs = [*examples, (query, answer)]
    if not all(re.fullmatch("[a-z]+( [a-z]+)*", item) for pair in pairs for item in pair):
        return "not all texts are words of small letters"
    same = all([len(word) for word in x.split()] == [len(word) for word in y.split()]
               for x, y in pairs)
    return None if same else "a text and its decryption have words of other lengths"


def _equation(examples: text.Pairs, query: str, answer: str) -> str | None:
    sides = [query, *(x for x, _ in examples)]
    if any(len(side) != 5 or re.search(r"\s", side) for side in sides):
        return "not all have the form of two digits, a sign, two digits"
    forms = {_numeric(side) for side in sides}
    return None if len(forms) == 1 else "some have digits, some symbols"


CHECKS: dict[str, Callable[[text.Pairs, str, str], str | None]] = {
    "bits": _bits, "gravity": _measured, "unit": _measured, "numeral": _numeral,
    "cipher": _cipher, "equation": _equation,
}


def _all(examples: text.Pairs, query: str, answer: str) -> list[str]:
    return [query, answer, *(item for pair in examples for item in pair)]


def _numeric(side: str) -> bool:
    return (side[:2] + side[3:]).isdecimal()


def _subdomain(domain: str, examples: text.Pairs, query: str, answer: str) -> str:
    if domain == "bits":
        found = bits.explain([*examples, (query, answer)], query)
        gate = found[1]["gate"].split()[0] if found else "TABLE"
        return "bits_other" if gate == "TABLE" else f"bits_{gate.lower()}"
    if domain == "equation":
        form = "numeric" if _numeric(query) else "symbolic"
        shown = any(x[2] == query[2] for x, _ in examples)
        return f"equation_{form}_{'deduce' if shown else 'guess'}"
    return domain


def _difficulty(domain: str, examples: text.Pairs, query: str, answer: str) -> float:
    """A rough measure in 0..1 to rank rows of one domain by."""
    if domain == "bits":
        return 1 - len(examples) / 16  # fewer examples leave more rules open
    if domain in ("gravity", "unit"):
        return min(1.0, float(answer) / 250)
    if domain == "numeral":
        return min(1.0, len(answer) / 15)
    if domain == "cipher":
        shown = set("".join(secret for secret, _ in examples))
        return min(1.0, len(set(query) - shown) / 6)
    signs = {x[2] for x, _ in examples}
    return min(1.0, 0.25 * len(signs) + 0.3 * (query[2] not in signs)
               + 0.4 * (not _numeric(query)))
