"""Accuracy by sub-domain, of one adapter on one or two sets of items. Trusted: it reads the vault.

    python -m eval.subdomains VAULT/dev.jsonl EVAL/step-000200.predictions.jsonl \\
        [synthetic.jsonl OUT/step-000200.predictions.jsonl]

With a second set, the generator's say, the last columns are its accuracy less the first's and
how many standard errors that is. Dev of real rows and dev of synthetic ones part where the
generator is not like the data, or where training has fitted one of them: a difference of more than
two or three standard errors is a reason to look. docs/challenge.md says how to make the second set.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from puzzles.challenge import Unreadable, read

Hits = dict[str, list[bool]]  # by sub-domain, and "all"


class SubdomainsError(ValueError):
    """Items and predictions do not fit; one line."""


def hits(items: list[dict[str, Any]], predictions: list[dict[str, Any]]) -> Hits:
    """Which items were answered right, by sub-domain; a domain's name where it has none.

    Raises:
        SubdomainsError: the predictions are not of exactly these items.
    """
    if [item["id"] for item in items] != [row["id"] for row in predictions]:
        raise SubdomainsError("the predictions are of other items")
    found: defaultdict[str, list[bool]] = defaultdict(list)
    for item, row in zip(items, predictions, strict=True):
        for name in ("all", _subdomain(item)):
            found[name].append(bool(row["correct"]))
    return dict(found)


def _subdomain(item: dict[str, Any]) -> str:
    known = item.get("meta", {}).get("subdomain")
    if known is not None:
        return str(known)
    try:
        return str(read(item["prompt"], item["answer"]).meta["subdomain"])
    except Unreadable:  # terse prompts
        return str(item["domain"])


def table(first: Hits, second: Hits | None = None) -> list[str]:
    """Lines of text, one a sub-domain."""
    lines = []
    for name in sorted({*first, *(second or {})}, key=lambda name: (name == "all", name)):
        line = f"{name:28} {_cell(first.get(name, []))}"
        if second is not None:
            line += f"   {_cell(second.get(name, []))}"
            if name in first and name in second:
                line += _difference(first[name], second[name])
        lines.append(line)
    return lines


def _cell(found: list[bool]) -> str:
    return f"{sum(found) / len(found):.3f} of {len(found):4}" if found else f"{'-':13}"


def _difference(first: list[bool], second: list[bool]) -> str:
    """Two shares compared, unpaired; with the pooled share, one answer each way added, so that
    shares of 0 and 1 have an error too."""
    a, b = len(first), len(second)
    share = (sum(first) + sum(second) + 1) / (a + b + 2)
    error = math.sqrt(share * (1 - share) * (1 / a + 1 / b))
    gap = sum(second) / b - sum(first) / a
    return f"   {gap:+.3f} ({gap / error:+.1f} se)"


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise SubdomainsError(f"{path}: {error}") from error


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="ITEMS PREDICTIONS")
    paths = parser.parse_args().files
    if len(paths) not in (2, 4):
        parser.error("give ITEMS PREDICTIONS once or twice")
    sets = []
    try:
        for items, predictions in zip(paths[::2], paths[1::2], strict=True):
            try:
                sets.append(hits(_read(items), _read(predictions)))
            except KeyError as error:
                raise SubdomainsError(f"{items}, {predictions}: a row lacks {error}") from error
    except SubdomainsError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print("\n".join(table(*sets)))


if __name__ == "__main__":
    main()
