"""Statistics: known values, intervals that cover, and the verdict on the paper's own trajectory."""

import math

import pytest

from aevo import statistics
from aevo.statistics import Contribution, Gain, Noise, Point, RoundBest, SeedBand

PAPER = [  # round, dev, LB (paper, appendix A)
    RoundBest(0, 0.79, 0.80),
    RoundBest(1, 0.82, 0.82),
    RoundBest(2, 0.84, 0.84),
    RoundBest(3, 0.93, 0.85),
    RoundBest(4, 0.89, 0.86),
]
NOISE = Noise(dev_band=0.02, lb=0.01)


def items(correct: int, total: int) -> dict[str, bool]:
    return {f"i{index:03d}": index < correct for index in range(total)}


def test_paired_counts_changed_items_only() -> None:
    anchor = {"a": True, "b": False, "c": False, "d": True, "only here": True}
    explorer = {"a": True, "b": True, "c": True, "d": False, "only there": True}
    result = statistics.paired(anchor, explorer)
    assert (result.n, result.won, result.lost, result.gain) == (4, 2, 1, 0.25)
    assert result.p == 1.0
    assert result.low <= result.gain <= result.high


def test_paired_interval_is_that_of_the_normal_approximation() -> None:
    result = statistics.paired(items(300, 600), items(330, 600))
    error = math.sqrt(0.05 * 0.95 / 600)
    assert result.low == pytest.approx(0.05 - 1.96 * error, abs=0.002)
    assert result.high == pytest.approx(0.05 + 1.96 * error, abs=0.002)
    assert result == statistics.paired(items(300, 600), items(330, 600))


def test_paired_without_common_items_is_an_error() -> None:
    with pytest.raises(ValueError, match="no common items"):
        statistics.paired({"a": True}, {"b": True})


@pytest.mark.parametrize(
    ("won", "lost", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (1, 9, 22 / 1024), (4, 4, 1.0)]
)
def test_mcnemar_exact(won: int, lost: int, p: float) -> None:
    assert statistics.mcnemar(won, lost) == pytest.approx(p)


def test_holm_steps_down_and_keeps_the_order() -> None:
    adjusted = statistics.holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_seed_band_pools_within_recipes() -> None:
    band = statistics.seed_band({"a": [0.40, 0.42], "b": [0.60, 0.60, 0.63], "c": [0.9]})
    within = 2 * 0.01**2 + 2 * 0.01**2 + 0.02**2
    assert band.sd == pytest.approx(math.sqrt(within / 3))
    assert (band.runs, band.dof) == (5, 3)


def test_seed_band_needs_a_repeat() -> None:
    assert statistics.seed_band({"a": [0.4], "b": [0.6]}) == SeedBand(None, 0, 0)
    assert statistics.seed_band({}).sd is None


def test_difference_band_moves_from_the_prior_to_the_measurement() -> None:
    assert statistics.difference_band(0.02, SeedBand(None, 0, 0)) == 0.02
    few = statistics.difference_band(0.02, SeedBand(0.02, 2, 1))
    many = statistics.difference_band(0.02, SeedBand(0.02, 101, 100))
    assert statistics.difference_band(0.02, SeedBand(0.0, 2, 1)) == 0.02  # never below
    full = 2 * math.sqrt(2) * 0.02
    assert 0.02 < few < many < full
    assert many == pytest.approx(full, rel=0.01)


def test_gains_are_against_the_anchor_of_the_round() -> None:
    points = [
        Point(1, "c00", True, 0.70, 0.80),
        Point(1, "c01", False, 0.74, 0.82),
        Point(2, "c01", False, 0.90, 0.90),  # its round's anchor has no score
    ]
    assert statistics.gains(points) == [
        Gain(1, "c01", pytest.approx(0.04), pytest.approx(0.02))  # type: ignore[arg-type]
    ]


def test_calibration_recovers_a_slope_and_its_interval() -> None:
    dev = [-0.03, -0.01, 0.0, 0.02, 0.04, 0.05]
    wobble = [0.002, -0.002, 0.001, -0.001, 0.002, -0.002]
    found = statistics.calibrate(
        [Gain(1, str(i), x, 0.5 * x + e) for i, (x, e) in enumerate(zip(dev, wobble, strict=True))]
    )
    assert found.slope == pytest.approx(0.5, abs=0.03)
    assert found.low is not None and found.high is not None
    assert found.low < 0.5 < found.high
    assert found.rank_correlation is not None and found.rank_correlation > 0.9


def test_calibration_is_none_where_it_cannot_know() -> None:
    assert statistics.calibrate([Gain(1, "a", 0.1, 0.1)] * 2) == statistics.Slope()
    assert statistics.calibrate([Gain(1, "a", 0.1, 0.1)] * 5) == statistics.Slope()
    flat = statistics.calibrate([Gain(1, str(i), i / 100, 0.0) for i in range(4)])
    assert flat.slope == 0.0
    assert flat.rank_correlation is None


def test_leverage_falls_on_the_domain_that_rose_unconfirmed() -> None:
    found = statistics.leverage(
        [
            Contribution(0.06, 0.01, {"equation": 0.06, "bits": 0.0}),
            Contribution(0.04, 0.04, {"equation": 0.0, "bits": 0.04}),
            Contribution(-0.02, 0.02, {"equation": -0.02, "bits": 0.0}),
        ]
    )
    assert found == pytest.approx({"equation": 0.025, "bits": 0.0})
    assert statistics.leverage([]) == {}


def test_round_bests_take_the_first_anchor_as_round_zero() -> None:
    points = [
        Point(1, "c00", True, 0.79, 0.80),
        Point(1, "c01", False, 0.82, 0.81),
        Point(1, "c02", False, 0.81, 0.82),
        Point(2, "c01", False, 0.84, 0.84),
    ]
    assert statistics.round_bests(points) == PAPER[:3]
    assert statistics.round_bests([]) == []


@pytest.mark.parametrize(("rounds", "expected"), [(2, 0), (3, 0), (4, 1), (5, 2)])
def test_plateau_counts_rounds_in_a_row(rounds: int, expected: int) -> None:
    assert statistics.plateau(PAPER[:rounds], 0.02) == expected


def test_plateau_ends_with_an_improvement() -> None:
    lbs = [0.80, 0.80, 0.81, 0.79, 0.84]
    bests = [RoundBest(number, 0.8, lb) for number, lb in enumerate(lbs)]
    assert [statistics.plateau(bests[:n], 0.02) for n in range(1, 6)] == [0, 1, 2, 3, 0]


@pytest.mark.parametrize("band", [0.014, 0.02, 0.03])
def test_the_papers_proxy_falls_after_round_three_and_not_before(band: float) -> None:
    noise = Noise(dev_band=band, lb=statistics.lb_noise(2))
    verdicts = [statistics.divergence(PAPER[:n], [], noise).verdict for n in range(1, 6)]
    assert verdicts == ["evidence", "evidence", "evidence", "not_evidence", "not_evidence"]


def test_the_reason_states_the_figures() -> None:
    reason = statistics.divergence(PAPER[:4], [], NOISE).reason
    assert "best dev rose +0.090 from round 2 to 3 while best LB moved +0.010" in reason


@pytest.mark.parametrize(
    ("dev", "lb", "expected"),
    [
        (0.94, 0.94, "evidence"),  # agree
        (0.94, 0.87, "evidence"),  # LB lags, but moved beyond its noise
        (0.86, 0.84, "evidence"),  # dev within its own noise
        (0.87, 0.85, "evidence"),  # one rounding step may hide the rest
        (0.88, 0.84, "suspect"),
        (0.94, 0.84, "not_evidence"),
        (0.80, 0.80, "evidence"),  # no record at all
    ],
)
def test_verdict_by_the_record(dev: float, lb: float, expected: str) -> None:
    bests = [*PAPER[:3], RoundBest(3, dev, lb)]
    assert statistics.divergence(bests, [], NOISE).verdict == expected


def test_a_slow_drift_adds_up() -> None:
    bests = [RoundBest(n, 0.80 + 0.02 * n, 0.80 + 0.002 * n) for n in range(5)]
    verdicts = [statistics.divergence(bests[:n], [], NOISE).verdict for n in range(1, 6)]
    assert verdicts == ["evidence", "evidence", "suspect", "not_evidence", "not_evidence"]


def test_a_confirmed_record_restores_dev() -> None:
    bests = [*PAPER, RoundBest(5, 0.95, 0.92)]
    assert statistics.divergence(bests, [], NOISE).verdict == "evidence"


def test_several_probes_decide_where_one_does_not() -> None:
    failed = [Gain(3, "c01", 0.05, 0.0), Gain(3, "c02", 0.05, 0.01)]
    assert statistics.divergence(PAPER[:3], failed[:1], NOISE).verdict == "suspect"
    assert statistics.divergence(PAPER[:3], failed, NOISE).verdict == "not_evidence"
    confirmed = [Gain(3, f"c1{i}", 0.05, 0.04) for i in range(3)]
    assert statistics.divergence(PAPER[:3], failed + confirmed, NOISE).verdict == "evidence"


def test_coarse_boards_have_coarser_noise() -> None:
    assert statistics.lb_noise(2) == 0.01
    assert statistics.lb_noise(4) == 0.01
    assert statistics.lb_noise(1) == 0.1
    noise = Noise(dev_band=0.02, lb=statistics.lb_noise(1))
    assert statistics.divergence(PAPER[:4], [], noise).verdict == "evidence"
