"""Traces that search and check: what the rule was found by, not only what it is.

Search itself is hard to learn from text; what was learned in the competition has a short list to go
through, or an answer to recall, and a check that a model can do token by token:

- `bases` (bits): the bits are written one by one, so that each is a token of its own. The streams
  nearest to the outputs (fewest flips) are tried as bases of a truth table and given up where two
  examples contradict each other; then come the right bases, every example by them, the table, and
  the query's bits looked up in it.
- `enumerate` (equations in digits): every operation there is, in one order, up to the first example
  that it does not fit. Those that fit all answer the query, and the answer that most give is it.
- `recall` (equations in symbols): the digits of each row are recalled from a catalogue that was
  computed beforehand (`decipher`: the shape of a row and a rule give them), and then *verified*:
  every row decoded, calculated, encoded again.

A writer gives None where its kind of trace cannot say the answer. Every line can be calculated from
those above it; data/replay.py does so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from puzzles import Puzzle, bits, cryptarithm, decipher
from puzzles.equation import BROAD, OPERATORS

Unary = tuple[list[str], dict[str, str]]  # bases, truth table
NEAREST = 3  # bases that are tried before the right ones
INPUT = "ROL 0"
IDENTITY = {"0": "0", "1": "1"}


def bases(puzzle: Puzzle) -> str | None:
    """Bits: bases by likeness, a truth table, single-bit tokens."""
    examples, query = puzzle.meta["examples"], puzzle.meta["query"]
    found = _bases(puzzle)
    if found is None:
        return None
    names, table = found
    lines = [*_tried(names, examples), f"bases {' , '.join(names)}"]
    for number, (x, y) in enumerate(examples, 1):
        lines.append(f"{number} : {spaced(x)} ; " + " ; ".join(
            spaced(_stream(name, x)) for name in names) + f" = {spaced(y)}")
    lines.append("table " + " ; ".join(f"{spaced(k)} -> {v}" for k, v in sorted(table.items())))
    lines.append(f"query {spaced(query)}")
    streams = [_stream(name, query) for name in names]
    lines += [f"{name} : {spaced(line)}" for name, line in zip(names, streams, strict=True)]
    answer = "".join(table["".join(key)] for key in zip(*streams, strict=True))
    return "\n".join([*lines, f"answer {spaced(answer)}"])


def spaced(text: str) -> str:
    """One character, one token, whatever the tokenizer joins."""
    return " ".join(text)


def _bases(puzzle: Puzzle) -> tuple[list[str], dict[str, str]] | None:
    """Streams and the truth table over them, of which the examples show all that the query needs:
    the puzzle's own rule, else the simplest that explains it."""
    meta = puzzle.meta
    if "gate" not in meta:
        return _unary(meta["rule"], len(meta["query"]))
    choices = [[name.removeprefix("NOT ") for name in meta["streams"]]]
    other = bits.explain(meta["examples"], meta["query"])
    if other is not None:
        choices.append([name.removeprefix("NOT ") for name in other[1]["streams"]])
    for names in choices:
        table = _table(names, meta["examples"])
        asked = zip(*(_stream(name, meta["query"]) for name in names), strict=True)
        known = {} if table is None else table
        if "".join(known.get("".join(key), "?") for key in asked) == puzzle.answer:
            return names, known
    return None


def _unary(rule: str, width: int) -> Unary:
    """The easy form's operations as bases and a table: a mask is one more base."""
    name, _, argument = rule.partition(" ")
    if name == "NOT":
        return [INPUT], {"0": "1", "1": "0"}
    if name == "XOR":
        return [INPUT, f"MASK {argument[:width]}"], {"00": "0", "01": "1", "10": "1", "11": "0"}
    return [rule], IDENTITY


def _stream(name: str, x: str) -> str:
    kind, _, argument = name.partition(" ")
    if kind == "MASK":
        return argument
    return bits.apply((kind, argument), x) if kind in ("REV", "ROR") else bits.stream(name, x)


def _table(names: list[str], examples: list[tuple[str, str]]) -> dict[str, str] | None:
    """The output bit by the bases' bits, as far as the examples show it; None if they collide."""
    table: dict[str, str] = {}
    for x, y in examples:
        for key, bit in zip(zip(*(_stream(n, x) for n in names), strict=True), y, strict=True):
            if table.setdefault("".join(key), bit) != bit:
                return None
    return table


def _tried(right: list[str], examples: list[tuple[str, str]]) -> Iterator[str]:
    """The nearest bases, alone and together, as far as they collide: where, and back."""
    flips = {name: _flips(name, examples) for name in bits.STREAMS}
    near = sorted(bits.STREAMS, key=lambda name: flips[name])[:NEAREST]
    yield "near " + " , ".join(f"{name} {flips[name]}" for name in near)
    for count in range(1, len(right) + 1):
        names = near[:count]
        found = _collision(names, examples)
        if found is not None and sorted(names) != sorted(right):
            yield f"try {' , '.join(names)} : {found} , back"


def _flips(name: str, examples: list[tuple[str, str]]) -> int:
    """In how many bits a stream differs from the outputs, or from their opposite if fewer."""
    differ = [a != b for x, y in examples for a, b in zip(_stream(name, x), y, strict=True)]
    return min(sum(differ), len(differ) - sum(differ))


def _collision(names: list[str], examples: list[tuple[str, str]]) -> str | None:
    """The first two examples (by number) that ask different bits for one pattern."""
    first: dict[str, tuple[str, int]] = {}
    for number, (x, y) in enumerate(examples, 1):
        for key, bit in zip(zip(*(_stream(n, x) for n in names), strict=True), y, strict=True):
            known, where = first.setdefault("".join(key), (bit, number))
            if known != bit:
                return f"{spaced(''.join(key))} is {known} in {where} and {bit} in {number}"
    return None


def enumerated(puzzle: Puzzle) -> str | None:
    """Equations in digits: all operations in order, each up to its first failure; the answer that
    most of the fitting ones give."""
    meta = puzzle.meta
    if meta.get("symbolic"):
        return None
    lines, votes = list[str](), Counter[str]()
    if "mode" in meta:
        asked, sign = meta["query"], meta["query"][2]
        query = asked[:2], asked[3:]
        rows = [(x[:2], x[3:], y) for x, y in meta["examples"] if x[2] == sign]
        rules = [" ".join(rule) for rule in cryptarithm.RULES]
    else:
        sign, (left, right) = meta["symbol"], meta["operands"]
        query = str(left), str(right)
        rows = [(*x.split(sign), y) for x, y in meta["examples"]]
        rules = list(BROAD)
    for rule in rules if rows else ():
        steps, fits = [], True
        for a, b, y in rows:
            step, value = _step(rule, a, b)
            fits = value == y
            steps.append(f"{step} {'ok' if fits else 'no'}")
            if not fits:
                break
        if fits:
            step, value = _step(rule, *query)
            votes[value] += 1
            steps.append(f"query {step}")
        lines.append(f"{rule} : " + " ; ".join(steps))
    if not votes or votes.most_common(1)[0][0] != puzzle.answer:
        return None
    shown = [f"row {a} {b} = {y}" for a, b, y in rows]
    counted = " , ".join(f"{value} x {n}" for value, n in votes.items())
    return "\n".join([f"sign {sign}", *shown, f"query {query[0]} {query[1]}", *lines,
                      f"votes {counted}", f"answer {puzzle.answer}"])


def _step(rule: str, a: str, b: str) -> tuple[str, str]:
    """A rule applied, in words that can be calculated, and its value."""
    name, _, mode = rule.partition(" ")
    if not mode:
        value = str(OPERATORS[name](int(a), int(b)))
        return f"{a} {b} = {value}", value
    value = cryptarithm.evaluate((name, mode), a, b)
    if mode == "plain":
        return f"{a} {b} = {value}", value
    a, b = a[::-1], b[::-1]
    return f"{a} {b} = {cryptarithm.evaluate((name, 'plain'), a, b)} back {value}", value


def recalled(puzzle: Puzzle) -> str | None:
    """Equations in symbols: digits recalled row by row, then all of it verified."""
    meta = puzzle.meta
    if not meta.get("symbolic") or meta["guess"]:
        return None
    query, rule = meta["query"], (meta["rule"], meta["mode"])
    reading = decipher.reading(meta["examples"], query, rule, puzzle.answer)
    if reading is None:
        return None
    known = dict[str, str]()
    lines = [f"sign {query[2]}", f"rule {' '.join(rule)}"]
    rows = decipher.ordered(meta["examples"], query[2])
    for a, b, y in rows:
        row = a + b + y
        shape = decipher.shape(row)
        new = {glyph: reading[glyph] for glyph in row if glyph not in known and glyph != "-"}
        known |= new
        keys = " , ".join(f"{glyph} {digit}" for glyph, digit in new.items())
        lines.append(f"recall {spaced(shape[:4])} = {spaced(shape[4:])} : "
                     f"{spaced(row[:4])} = {spaced(y)} : {keys or 'known'}")
    spare = {glyph: reading[glyph] for glyph in query[:2] + query[3:] if glyph not in known}
    if spare:  # putting side by side works with any digits
        lines.append("spare : " + " , ".join(f"{g} {d}" for g, d in spare.items()))
    lines += [f"check {_verified(rule, a, b, reading)} ok" for a, b, _ in rows]
    lines.append(f"query {_verified(rule, query[:2], query[3:], reading)}")
    return "\n".join([*lines, f"answer {spaced(puzzle.answer)}"])


def _verified(rule: tuple[str, str], a: str, b: str, digits: dict[str, str]) -> str:
    """Glyphs to digits, the rule on them, and digits to glyphs."""
    left, right = ("".join(digits[glyph] for glyph in side) for side in (a, b))
    step, value = _step(" ".join(rule), left, right)
    back = {digit: glyph for glyph, digit in digits.items()} | {"-": "-"}
    return (f"{spaced(a)} {spaced(b)} -> {spaced(left)} {spaced(right)} ; {step} ; "
            f"{spaced(value)} -> {spaced(''.join(back[c] for c in value))}")
