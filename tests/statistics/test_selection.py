"""The best of many checkpoints is not better for having been chosen among many."""

import numpy as np
import pytest

from aevo.statistics.selection import expected_best, flattery, scatter


def test_the_expected_best_is_that_of_normal_values() -> None:
    drawn = np.random.default_rng(1).standard_normal((20_000, 64))
    assert expected_best(0) == expected_best(1) == 0
    for count in (2, 4, 8, 64):
        assert expected_best(count) == pytest.approx(drawn[:, :count].max(axis=1).mean(), abs=0.03)


def test_a_slow_rise_is_no_noise() -> None:
    rising = [0.5 + 0.001 * step for step in range(64)]
    assert scatter(rising) < 0.001 < np.std(rising) / 10
    noisy = np.random.default_rng(2).normal(0.6, 0.02, 4000)
    assert scatter(list(noisy)) == pytest.approx(0.02, rel=0.05)


def test_noisy_copies_gain_nothing_by_their_number() -> None:
    """64 copies of one adapter, each with errors of its own, against an anchor's runs of four."""
    generator = np.random.default_rng(3)
    raw, corrected = [], []
    for _ in range(400):
        copies = generator.normal(0.6, 0.017, 64)
        anchors = [list(generator.normal(0.6, 0.017, 4)) for _ in range(2)]
        gain = copies.max() - np.mean([max(one) for one in anchors])
        raw.append(gain)
        corrected.append(gain - flattery(list(copies), anchors))
    assert np.mean(raw) > 0.02
    assert abs(np.mean(corrected)) < 0.002


def test_as_many_as_the_anchor_has_cost_nothing() -> None:
    anchors = [[0.5, 0.6, 0.61, 0.6], [0.52, 0.6, 0.6, 0.62]]
    assert flattery([0.1, 0.9, 0.2, 0.8], anchors) == 0
    assert flattery([0.1, 0.9, 0.2, 0.8, 0.3], anchors) > 0.1
    assert flattery([0.1, 0.9], []) == 0
