"""Groups of rows that must stay on one side of a split, since one tells the other's answer.

Rows belong together, also by way of a third, if they are of one domain and

- ask the same query with the same answer, hence whatever has the same rule and query;
- or share at least half of their example lines, and at least two: the rule can be copied.

The numeral system is the same in every row and its queries are numbers to 100, so the first would
put a hundred large blocks into the split instead of rows; there, rows belong together that ask the
same number *and* share half of their examples.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

from puzzles import Puzzle

MIN_SHARED = 2  # example lines
CROWD = 200  # rows with one line: too many for pairs, and such a line says nothing


def groups(puzzles: Sequence[Puzzle]) -> list[list[int]]:
    """Indices of rows that belong together, groups of one included, in order of their first."""
    parent = list(range(len(puzzles)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for first, second in _pairs(puzzles):
        one, other = sorted((root(first), root(second)))
        parent[other] = one
    found: defaultdict[int, list[int]] = defaultdict(list)
    for index in range(len(puzzles)):
        found[root(index)].append(index)
    return list(found.values())


def _pairs(puzzles: Sequence[Puzzle]) -> Iterator[tuple[int, int]]:
    asked: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    shown: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, puzzle in enumerate(puzzles):
        query = puzzle.meta["query"]
        block = (puzzle.domain, query) if puzzle.domain == "numeral" else (puzzle.domain,)
        if puzzle.domain != "numeral":
            asked[puzzle.domain, query, puzzle.answer].append(index)
        for x, y in set(puzzle.meta["examples"]):
            shown[*block, x, y].append(index)
    for members in asked.values():
        yield from ((members[0], other) for other in members[1:])
    shared: defaultdict[tuple[int, int], int] = defaultdict(int)
    for members in shown.values():
        if len(members) <= CROWD:
            for pair in combinations(members, 2):
                shared[pair] += 1
    for (first, second), count in shared.items():
        fewest = min(len(set(puzzles[i].meta["examples"])) for i in (first, second))
        if count >= max(min(MIN_SHARED, fewest), math.ceil(fewest / 2)):
            yield first, second
