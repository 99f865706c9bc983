"""Splits the competition's train.csv into dev, hidden and training rows.

Trusted: a campaign runs it once, when it starts; whoever trains sees the training rows alone.

    ITEMS_SEED=1 python -m eval.split --source train.csv --preset challenge --dev 720 \\
        --hidden 1200 --vault VAULT --rows ROWS --report source.json

Writes VAULT/dev.jsonl and VAULT/hidden.jsonl (items, as eval.items writes them), ROWS/train.jsonl,
then the report. Rows that belong together (eval/groups.py) stay on one side; every sub-domain has
its share of each side. The same rows and seed give the same split, in whatever order the file has
them. The seed may be secret, so it comes in a variable, as for eval.items.

Each training row is solved blind by the domain's solver, which also knows what the training rows
together show (the vocabulary, what signs mostly stand for). If that gives exactly its answer, the
row carries the rule that was found (`solved`), from which data/traces.py writes its reasoning.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from puzzles import PresetError, Puzzle, load_preset
from puzzles.challenge import Knowledge, explain, learn

from eval.files import write
from eval.groups import groups
from eval.items import given_seed
from eval.metric import verify
from eval.source import SourceError, read_source

Split = dict[str, list[Puzzle]]  # dev, hidden, train


def split(puzzles: Sequence[Puzzle], dev: int, hidden: int, seed: int) -> Split:
    """Puzzles by side; `dev` and `hidden` are numbers of rows.

    Groups are taken in an order that only the seed gives, each by the sub-domain of its first row,
    and put where its rows still fit: dev, else hidden, else train. What a side still lacks then,
    since groups did not fit, it gets from other sub-domains; with large groups it may lack some.

    Raises:
        SourceError: dev and hidden would take more than half.
    """
    if dev + hidden > len(puzzles) / 2:
        raise SourceError(f"{len(puzzles)} usable rows are too few for {dev} dev and {hidden} "
                          "hidden items: lower model.dev_items and model.hidden_items to at most "
                          "half of them together")
    strata: defaultdict[str, list[list[Puzzle]]] = defaultdict(list)
    for members in groups(puzzles):
        group = [puzzles[index] for index in members]
        strata[group[0].meta["subdomain"]].append(group)
    sizes = {name: sum(map(len, found)) for name, found in strata.items()}
    room = {"dev": _quotas(sizes, dev), "hidden": _quotas(sizes, hidden)}
    sides: Split = {"dev": [], "hidden": [], "train": []}
    left: list[list[Puzzle]] = []
    for name in sorted(strata):
        for group in sorted(strata[name], key=lambda group: _place(group, seed)):
            side = next((side for side in room if len(group) <= room[side][name]), None)
            if side is None:
                left.append(group)
            else:
                room[side][name] -= len(group)
                sides[side] += group
    lacking = {"dev": dev - len(sides["dev"]), "hidden": hidden - len(sides["hidden"])}
    for group in sorted(left, key=lambda group: _place(group, seed)):
        side = next((side for side in lacking if len(group) <= lacking[side]), "train")
        if side != "train":
            lacking[side] -= len(group)
        sides[side] += group
    return sides


def _quotas(sizes: dict[str, int], n: int) -> dict[str, int]:
    """Rows per sub-domain, in proportion and summing to n; remainders to the largest fractions."""
    total = sum(sizes.values())
    quotas = {name: n * size // total for name, size in sizes.items()}
    by_rest = sorted(sizes, key=lambda name: (-(n * sizes[name] % total), name))
    for name in by_rest[: n - sum(quotas.values())]:
        quotas[name] += 1
    return quotas


def _place(group: list[Puzzle], seed: int) -> bytes:
    """Where a group stands in the order: a keyed hash, which tells nothing without the seed."""
    content = min(f"{puzzle.prompt}\0{puzzle.answer}" for puzzle in group)
    return hmac.digest(str(seed).encode(), content.encode(), "sha256")


def item(puzzle: Puzzle) -> dict[str, Any]:
    """A row of dev or hidden."""
    return {"id": puzzle.id, "domain": puzzle.domain, "prompt": puzzle.prompt,
            "answer": puzzle.answer, "meta": puzzle.meta}


def training_row(puzzle: Puzzle, known: Knowledge) -> dict[str, Any]:
    """A row for training, with the rule that a blind solver found if it gives this very answer."""
    found = explain(puzzle, known)
    solved = found is not None and found[0] == puzzle.answer and verify(puzzle.answer, found[0])
    rule = found[1] if found is not None and solved else {}
    return item(puzzle) | {"difficulty": puzzle.difficulty, "solved": solved,
                           "meta": puzzle.meta | rule}


def summary(sides: Split, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many rows of each sub-domain are where, and how many of the training rows are solved."""
    def count(side: str) -> dict[str, int]:
        return dict(sorted(Counter(p.meta["subdomain"] for p in sides[side]).items()))

    solved = Counter(row["meta"]["subdomain"] for row in rows if row["solved"])
    return {"split": {side: len(found) for side, found in sides.items()},
            "subdomains": {side: count(side) for side in sides},
            "solved": {name: solved[name] for name in count("train")}}


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, text, mode)


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def run(given: argparse.Namespace, seed: int) -> str:
    """The command; returns what to print.

    Raises:
        SourceError, PresetError: one line.
    """
    if load_preset(given.preset).style != "challenge":
        raise SourceError(f"preset={given.preset} is not in the words of {given.source}: give "
                          "model.preset=challenge with model.source")
    source = read_source(given.source)
    sides = split(source.puzzles, given.dev, given.hidden, seed)
    known = learn(sides["train"])
    rows = sorted((training_row(puzzle, known) for puzzle in sides["train"]),
                  key=lambda row: row["id"])
    for side in ("dev", "hidden"):
        _write(given.vault / f"{side}.jsonl", _lines([item(p) for p in sides[side]]), 0o600)
    _write(given.rows / "train.jsonl", _lines(rows), 0o644)
    found = summary(sides, rows)
    report = {"schema_version": 1, "source": str(given.source),
              "sha256": hashlib.sha256(given.source.read_bytes()).hexdigest(),
              **source.report(), **found}
    _write(given.report, json.dumps(report, indent=1) + "\n", 0o600)
    return (f"{source.rows} rows, {len(source.puzzles)} usable: "
            + ", ".join(f"{count} {side}" for side, count in found["split"].items()))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="the competition's train.csv")
    parser.add_argument("--preset", required=True)
    parser.add_argument("--dev", type=int, required=True, help="rows")
    parser.add_argument("--hidden", type=int, required=True, help="rows")
    parser.add_argument("--vault", type=Path, required=True, help="folder of dev and hidden items")
    parser.add_argument("--rows", type=Path, required=True, help="folder of the training rows")
    parser.add_argument("--report", type=Path, required=True, help="file, written last")
    given = parser.parse_args()
    seed = given_seed()
    try:
        print(run(given, seed))
    except (SourceError, PresetError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
