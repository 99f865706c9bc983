"""Learning-rate schedules."""

from __future__ import annotations

import pytest
from train.schedule import factor

SHAPES = ["cosine", "linear", "constant", "wsd"]


@pytest.mark.parametrize("shape", SHAPES)
def test_warmup_rises_to_the_peak_and_the_rest_never_rises(shape: str) -> None:
    values = [factor(step, 200, shape, warmup=0.1, final=0.2) for step in range(200)]
    assert values[:20] == sorted(values[:20])
    assert values[0] < 0.1
    assert values[20] == pytest.approx(1.0)
    assert values[20:] == sorted(values[20:], reverse=True)
    assert min(values[20:]) >= (1.0 if shape == "constant" else 0.2)


@pytest.mark.parametrize("shape", ["cosine", "linear", "wsd"])
def test_the_end_is_near_the_final_fraction(shape: str) -> None:
    assert factor(999, 1000, shape, warmup=0.05, final=0.1) == pytest.approx(0.1, abs=0.01)


def test_wsd_is_flat_until_the_last_fifth() -> None:
    values = [factor(step, 100, "wsd", warmup=0.0, final=0.0) for step in range(100)]
    assert set(values[:81]) == {1.0}
    assert values[90] == pytest.approx(0.5)


def test_no_warmup_starts_at_the_peak() -> None:
    assert factor(0, 10, "linear", warmup=0.0, final=0.0) == 1.0


def test_unknown_shape_is_named() -> None:
    with pytest.raises(ValueError, match="zigzag"):
        factor(5, 10, "zigzag", warmup=0.0, final=0.0)
