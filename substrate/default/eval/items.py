"""Draws an evaluation set.

    python -m eval.items --preset tiny --split dev --n 720 --seed 1 --out dev.jsonl

Splits: `dev`; `hidden`, from the preset's shifted distribution (puzzles/README.md); and
`hidden_unshifted`, hidden prompts from dev's own distribution, to see what the shift does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from puzzles import DOMAINS, Preset, PresetError, draw, load_preset

SPLITS = ("dev", "hidden", "hidden_unshifted")


def shares(preset: Preset, split: str, n: int) -> dict[str, int]:
    """Items per domain in the mixture of the split, summing to n."""
    mixture = preset.hidden_mixture if split == "hidden" else preset.dev_mixture
    total = sum(mixture.values())
    counts = {domain: int(n * mixture[domain] / total) for domain in DOMAINS}
    by_rest = sorted(DOMAINS, key=lambda d: counts[d] - n * mixture[d] / total)
    for domain in by_rest[: n - sum(counts.values())]:
        counts[domain] += 1
    return counts


def items(preset: Preset, split: str, n: int, seed: int) -> list[dict[str, Any]]:
    """The rows of an evaluation set: id, domain, prompt, answer, meta."""
    bucket = "dev" if split == "dev" else "hidden"
    variant = "hidden" if split == "hidden" else "dev"
    rows = []
    for domain, count in shares(preset, split, n).items():
        for puzzle in draw(preset, domain, count, seed, bucket, variant):
            rows.append({"id": puzzle.id, "domain": domain, "prompt": puzzle.prompt,
                         "answer": puzzle.answer, "meta": puzzle.meta})
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--split", choices=SPLITS, required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    try:
        rows = items(load_preset(given.preset), given.split, given.n, given.seed)
    except PresetError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = given.out.with_name(f".{given.out.name}.{os.getpid()}")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    temporary.chmod(0o600)
    temporary.replace(given.out)
    print(f"{len(rows)} items of {given.split}")


if __name__ == "__main__":
    main()
