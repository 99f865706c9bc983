"""What a puzzle is, which split it belongs to, and the presets of the generators."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

DOMAINS = ("bits", "gravity", "unit", "numeral", "cipher", "equation")
BUCKETS = {0: "dev", 1: "hidden"}  # of 10; all others are train


@dataclass(frozen=True)
class Puzzle:
    """One puzzle. `meta` holds the rule and the numbers a trace needs; `difficulty` is in 0..1."""

    domain: str
    prompt: str
    answer: str
    meta: dict[str, Any] = field(compare=False)
    difficulty: float = 0.5

    @property
    def id(self) -> str:
        """Unique and stable: a hash of the prompt."""
        return hashlib.sha256(self.prompt.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Preset:
    """Knobs of every domain, and how dev mixes the domains."""

    name: str
    style: str
    knobs: dict[str, dict[str, Any]]
    dev_mixture: dict[str, float]

    def of(self, domain: str, **overrides: Any) -> dict[str, Any]:
        """The knobs of one domain, with changes."""
        return {"style": self.style, **self.knobs[domain], **overrides}


def how_many(rng: random.Random, examples: int | list[int]) -> int:
    """The knob `examples`: a number, or an inclusive range to draw from."""
    return examples if isinstance(examples, int) else rng.randint(*examples)


class PresetError(ValueError):
    """An unknown preset, or one that lacks a domain."""


def load_preset(name: str) -> Preset:
    """Reads a preset from presets.yaml.

    Raises:
        PresetError: there is none of that name; the message lists those there are.
    """
    presets = yaml.safe_load((Path(__file__).parent / "presets.yaml").read_text())
    if name not in presets:
        raise PresetError(f"preset={name!r} is unknown; presets: {', '.join(presets)}")
    return Preset(name=name, **presets[name])


def split_of(prompt: str) -> str:
    """train, dev or hidden, by a hash of the prompt: whatever makes a prompt, the splits can never
    overlap."""
    bucket = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8]) % 10
    return BUCKETS.get(bucket, "train")
