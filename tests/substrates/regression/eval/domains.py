"""Three binary classification domains on the plane, drawn from a seeded generator."""

import hashlib

import numpy as np

DOMAINS = ("line", "ring", "xor")
DEV_MIX = {"line": 1, "ring": 1, "xor": 2}


def draw(domain: str, n: int, seed: int, held_out: bool) -> tuple[np.ndarray, np.ndarray]:
    """n points (n, 2), rounded to 4 decimals, and labels (n,); held-out points by hash."""
    generator = np.random.default_rng([seed, DOMAINS.index(domain)])
    points: list[np.ndarray] = []
    while len(points) < n:
        point = np.round(generator.uniform(-1, 1, 2), 4)
        if (hashlib.sha256(repr(point.tolist()).encode()).digest()[0] % 4 == 0) == held_out:
            points.append(point)
    x = np.array(points)
    return x, label(domain, x)


def label(domain: str, x: np.ndarray) -> np.ndarray:
    if domain == "line":
        return (x[:, 0] + 0.5 * x[:, 1] > 0).astype(int)
    if domain == "ring":
        return ((x**2).sum(1) > 0.5).astype(int)
    return ((x[:, 0] > 0) != (x[:, 1] > 0)).astype(int)


def features(domain: str, x: np.ndarray, width: int) -> np.ndarray:
    """Fixed random features of point and domain, (n, width * 3): one block per domain."""
    generator = np.random.default_rng(11)
    hidden = np.tanh(x @ generator.normal(size=(2, width)) * 3 + generator.normal(size=width))
    blocks = np.zeros((len(x), width * len(DOMAINS)))
    start = DOMAINS.index(domain) * width
    blocks[:, start : start + width] = hidden
    return blocks
