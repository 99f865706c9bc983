"""Comes to the answer by a trace's text alone, calculating every line anew; None if one is wrong.

It shares nothing with what writes traces (data/searched.py) or knows the rules (puzzles): the
operations are here once more, so that a mistake there is no mistake here. No row is trained on a
trace that does not come to its very answer (data/traces.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

PLAIN: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "rsub": lambda a, b: b - a,
    "absdiff": lambda a, b: abs(a - b), "mul": lambda a, b: a * b, "cat": lambda a, b: 100 * a + b,
    "tac": lambda a, b: 100 * b + a, "add1": lambda a, b: a + b + 1,
    "addm1": lambda a, b: a + b - 1, "mul1": lambda a, b: a * b + 1,
    "mulm1": lambda a, b: a * b - 1, "mod": lambda a, b: a % b if b else 0,
    "div": lambda a, b: a // b if b else 0,
}
EASY: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: abs(a - b), "max": max, "min": min,
    "mul": lambda a, b: a * b, "mul1": lambda a, b: a * b + 1,
    "cat": lambda a, b: int(f"{a}{b}"), "tac": lambda a, b: int(f"{b}{a}"),
}


class Astray(ValueError):
    """A line that does not follow from those above it."""


def answer(trace: str) -> str | None:
    """What the trace leads to, whichever of the three kinds it is; None if it does not hold."""
    lines = trace.splitlines()
    head = lines[0].split(" ")[0] if lines else ""
    try:
        if head == "near":
            return _bits(lines)
        if head == "sign":
            return _symbols(lines) if lines[1].startswith("rule ") else _digits(lines)
    except (Astray, ValueError, IndexError, KeyError):
        return None
    return None


def _demand(holds: bool, line: str) -> None:
    if not holds:
        raise Astray(line)


def _bits(lines: list[str]) -> str:
    """The query's bits looked up in a table that the examples' bits give."""
    start = next(i for i, line in enumerate(lines) if line.startswith("bases "))
    tried, (head, *rest) = lines[1:start], lines[start:]
    names = head.removeprefix("bases ").split(" , ")
    rows = [line.split(" : ", 1)[1] for line in rest if line.split(" ")[0].isdigit()]
    seen: dict[str, str] = {}
    inputs, outputs = [], []
    for number, row in enumerate(rows, 1):
        _demand(rest[number - 1].startswith(f"{number} : "), row)
        left, y = (part.replace(" ", "") for part in row.split(" = "))
        x, *streams = left.split(";")
        _demand(streams == [_stream(name, x) for name in names], row)
        for key, bit in zip(zip(*streams, strict=True), y, strict=True):
            _demand(seen.setdefault("".join(key), bit) == bit, row)
        inputs.append(x)
        outputs.append(y)
    for item in lines[0].removeprefix("near ").split(" , "):
        name, _, flips = item.rpartition(" ")
        differ = [a != b for x, y in zip(inputs, outputs, strict=True)
                  for a, b in zip(_stream(name, x), y, strict=True)]
        _demand(int(flips) == min(sum(differ), len(differ) - sum(differ)), lines[0])
    for line in tried:
        _demand(_collides(line, inputs, outputs), line)
    table, query, *asked, last = rest[len(rows):]
    entries = dict(_entry(item) for item in table.removeprefix("table ").split(" ; "))
    _demand(all(entries[key] == bit for key, bit in seen.items()), table)
    x = query.removeprefix("query ").replace(" ", "")
    streams = [_stream(name, x) for name in names]
    _demand(asked == [f"{n} : {' '.join(s)}" for n, s in zip(names, streams, strict=True)], query)
    found = "".join(entries["".join(key)] for key in zip(*streams, strict=True))
    _demand(last == "answer " + " ".join(found), last)
    return found


def _entry(item: str) -> tuple[str, str]:
    key, bit = item.split(" -> ")
    return key.replace(" ", ""), bit


def _collides(line: str, inputs: list[str], outputs: list[str]) -> bool:
    """Whether a `try` line tells the first two examples that ask different bits of its bases."""
    names = line.removeprefix("try ").split(" : ")[0].split(" , ")
    first: dict[tuple[str, ...], tuple[str, int]] = {}
    for number, (x, y) in enumerate(zip(inputs, outputs, strict=True), 1):
        for key, bit in zip(zip(*(_stream(n, x) for n in names), strict=True), y, strict=True):
            known, where = first.setdefault(key, (bit, number))
            if known != bit:
                told = f"{' '.join(key)} is {known} in {where} and {bit} in {number} , back"
                return line.split(" : ")[1] == told
    return False


def _stream(name: str, x: str) -> str:
    kind, _, argument = name.partition(" ")
    if kind == "MASK":
        return argument
    if kind == "REV":
        return x[::-1]
    k, n = int(argument), len(x)
    place = {"ROL": k, "ROR": -k, "SHL": k, "SHR": -k}[kind]
    turn = kind in ("ROL", "ROR")
    return "".join(
        x[(i + place) % n] if turn or 0 <= i + place < n else "0" for i in range(n)
    )


def _apply(rule: str, a: str, b: str) -> tuple[str, str]:
    """The words of a step, and its value."""
    name, _, mode = rule.partition(" ")
    if not mode:
        value = str(EASY[name](int(a), int(b)))
        return f"{a} {b} = {value}", value
    if mode == "plain":
        value = str(PLAIN[name](int(a), int(b)))
        return f"{a} {b} = {value}", value
    a, b = a[::-1], b[::-1]
    value = str(PLAIN[name](int(a), int(b)))
    back = "-" * value.startswith("-") + value.removeprefix("-")[::-1]
    return f"{a} {b} = {value} back {back}", back


def _digits(lines: list[str]) -> str:
    """The answer that most of the operations that fit all rows give; of equals the first."""
    rows = [line.split(" ") for line in lines if line.startswith("row ")]
    query = lines[1 + len(rows)].removeprefix("query ").split(" ")
    votes: Counter[str] = Counter()
    for line in lines[2 + len(rows):-2]:
        rule, said = line.split(" : ")
        words = []
        for _, a, b, _, y in rows:
            step, value = _apply(rule, a, b)
            words.append(f"{step} {'ok' if value == y else 'no'}")
            if value != y:
                break
        else:
            step, value = _apply(rule, *query)
            words.append(f"query {step}")
            votes[value] += 1
        _demand(said == " ; ".join(words), line)
    found = votes.most_common(1)[0][0]
    _demand(lines[-2] == "votes " + " , ".join(f"{v} x {n}" for v, n in votes.items()), lines[-2])
    _demand(lines[-1] == f"answer {found}", lines[-1])
    return found


def _symbols(lines: list[str]) -> str:
    """The query decoded by the digits that were recalled, calculated, and encoded; the digits are
    believed because every row holds with them. Any glyph may be in a line, so that words are told
    by their place."""
    rule, digits = lines[1].removeprefix("rule "), dict[str, str]()
    rows, checked = [], []
    for line in lines[2:-2]:
        words = line.split(" ")
        if words[0] == "recall":
            size = words.index(":") - 6  # of the result
            shape, row = words[1:5] + words[6:6 + size], words[7 + size:]
            glyphs, keys = row[:4] + row[5:5 + size], row[6 + size:]
            rows.append(glyphs)
            _demand(row[4] == "=" and row[5 + size] == ":" and _shape(glyphs) == shape, line)
            _learn(digits, keys if keys != ["known"] else [], line)
        elif words[0] == "spare":
            _learn(digits, words[2:], line)
        else:
            _demand(words[0] == "check" and words[-1] == "ok", line)
            checked.append(words[1:5] + _encoded(rule, words[1:-1], digits, line))
    _demand(checked == rows and len(set(digits.values())) == len(digits), lines[1])
    found = "".join(_encoded(rule, lines[-2].split(" ")[1:], digits, lines[-2]))
    _demand(lines[-1] == "answer " + " ".join(found), lines[-1])
    return found


def _learn(digits: dict[str, str], keys: list[str], line: str) -> None:
    """`g d , g d`: glyphs that were not known, and their digits."""
    for glyph, digit in zip(keys[::3], keys[1::3], strict=True):
        _demand(glyph not in digits and digit.isdigit(), line)
        digits[glyph] = digit


def _shape(glyphs: list[str]) -> list[str]:
    letters = {"-": "-"}
    return [letters.setdefault(glyph, chr(64 + len(letters))) for glyph in glyphs]


def _encoded(rule: str, words: list[str], digits: dict[str, str], line: str) -> list[str]:
    """`g g g g -> d d d d ; step ; value -> glyphs`: the glyphs, if all of it is right."""
    a, b, c, d = (digits[glyph] for glyph in words[:4])
    step, value = _apply(rule, a + b, c + d)
    back = {digit: glyph for glyph, digit in digits.items()} | {"-": "-"}
    glyphs = [back[digit] for digit in value]
    said = f"{a} {b} {c} {d} ; {step} ; {' '.join(value)} -> {' '.join(glyphs)}"
    _demand(" ".join(words[4:]) == f"-> {said}", line)
    return glyphs
