"""Statistics: known values, intervals that cover, and the verdict on the paper's own trajectory."""

import math

import numpy as np
import pytest

from aevo.statistics.domains import DomainProbe, DomainShare, leading_share
from aevo.statistics.effect import (
    Estimate,
    Reading,
    combined,
    expected,
    pool,
    replicated,
    spread,
    value_of_trial,
)
from aevo.statistics.multiplicity import holm
from aevo.statistics.noise import (
    SeedBand,
    Variance,
    beyond_items,
    by_recipe,
    difference_band,
    implied_variance,
    lb_noise,
    pooled,
    rounding,
    seed_band,
)
from aevo.statistics.paired import (
    above_zero,
    detectable,
    flip_variance,
    item_difference,
    mcnemar,
    paired,
)
from aevo.statistics.transfer import (
    Contribution,
    Gain,
    Noise,
    Passage,
    Point,
    Probe,
    RoundBest,
    Slope,
    calibrate,
    divergence,
    gains,
    leverage,
    passage,
    plateau,
    round_bests,
)

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
    result = paired(anchor, explorer)
    assert (result.n, result.won, result.lost, result.gain) == (4, 2, 1, 0.25)
    assert result.p == 1.0
    assert result.low <= result.gain <= result.high


def test_paired_interval_is_that_of_the_normal_approximation() -> None:
    result = paired(items(300, 600), items(330, 600))
    error = math.sqrt(0.05 * 0.95 / 600)
    assert result.low == pytest.approx(0.05 - 1.96 * error, abs=0.002)
    assert result.high == pytest.approx(0.05 + 1.96 * error, abs=0.002)
    assert result == paired(items(300, 600), items(330, 600))


def test_paired_without_common_items_is_an_error() -> None:
    with pytest.raises(ValueError, match="no common items"):
        paired({"a": True}, {"b": True})


@pytest.mark.parametrize(
    ("won", "lost", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (1, 9, 22 / 1024), (4, 4, 1.0)]
)
def test_mcnemar_exact(won: int, lost: int, p: float) -> None:
    assert mcnemar(won, lost) == pytest.approx(p)


def test_holm_steps_down_and_keeps_the_order() -> None:
    adjusted = holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_seed_band_pools_within_recipes() -> None:
    band = seed_band({"a": [0.40, 0.42], "b": [0.60, 0.60, 0.63], "c": [0.9]})
    within = 2 * 0.01**2 + 2 * 0.01**2 + 0.02**2
    assert band.sd == pytest.approx(math.sqrt(within / 3))
    assert (band.runs, band.dof) == (5, 3)


def test_seed_band_needs_a_repeat() -> None:
    assert seed_band({"a": [0.4], "b": [0.6]}) == SeedBand(None, 0, 0)
    assert seed_band({}).sd is None


def test_difference_band_moves_from_the_prior_to_the_measurement() -> None:
    def band(*measured: Variance) -> float:
        return difference_band(0.02, pooled(implied_variance(0.02), *measured).value)

    assert band() == pytest.approx(0.02)
    few, many = band(Variance(0.02**2, 1)), band(Variance(0.02**2, 100))
    assert band(Variance(0.0, 1)) == 0.02  # never below
    full = 2 * math.sqrt(2) * 0.02
    assert 0.02 < few < many < full
    assert many == pytest.approx(full, rel=0.01)


def test_gains_are_against_the_anchor_of_the_round() -> None:
    points = [
        Point(1, "c00", True, 0.70, 0.80),
        Point(1, "c01", False, 0.74, 0.82),
        Point(2, "c01", False, 0.90, 0.90),  # its round's anchor has no score
    ]
    assert gains(points) == [
        Gain(1, "c01", pytest.approx(0.04), pytest.approx(0.02))  # type: ignore[arg-type]
    ]


def test_calibration_recovers_a_slope_and_its_interval() -> None:
    dev = [-0.03, -0.01, 0.0, 0.02, 0.04, 0.05]
    wobble = [0.002, -0.002, 0.001, -0.001, 0.002, -0.002]
    found = calibrate(
        [Gain(1, str(i), x, 0.5 * x + e) for i, (x, e) in enumerate(zip(dev, wobble, strict=True))]
    )
    assert found.slope == pytest.approx(0.5, abs=0.03)
    assert found.low is not None and found.high is not None
    assert found.low < 0.5 < found.high
    assert found.rank_correlation is not None and found.rank_correlation > 0.9


def test_calibration_is_none_where_it_cannot_know() -> None:
    assert calibrate([Gain(1, "a", 0.1, 0.1)] * 2) == Slope()
    assert calibrate([Gain(1, "a", 0.1, 0.1)] * 5) == Slope()
    flat = calibrate([Gain(1, str(i), i / 100, 0.0) for i in range(4)])
    assert flat.slope == 0.0
    assert flat.rank_correlation is None


def test_leverage_falls_on_the_domain_that_rose_unconfirmed() -> None:
    found = leverage(
        [
            Contribution(0.06, 0.01, {"equation": 0.06, "bits": 0.0}),
            Contribution(0.04, 0.04, {"equation": 0.0, "bits": 0.04}),
            Contribution(-0.02, 0.02, {"equation": -0.02, "bits": 0.0}),
        ]
    )
    assert found == pytest.approx({"equation": 0.025, "bits": 0.0})
    assert leverage([]) == {}


def test_round_bests_take_the_first_anchor_as_round_zero() -> None:
    points = [
        Point(1, "c00", True, 0.79, 0.80),
        Point(1, "c01", False, 0.82, 0.81),
        Point(1, "c02", False, 0.81, 0.82),
        Point(2, "c01", False, 0.84, 0.84),
    ]
    assert round_bests(points) == PAPER[:3]
    assert round_bests([]) == []


@pytest.mark.parametrize(("rounds", "expected"), [(2, 0), (3, 0), (4, 1), (5, 2)])
def test_plateau_counts_rounds_in_a_row(rounds: int, expected: int) -> None:
    assert plateau(PAPER[:rounds], 0.02) == expected


def test_plateau_ends_with_an_improvement() -> None:
    lbs = [0.80, 0.80, 0.81, 0.79, 0.84]
    bests = [RoundBest(number, 0.8, lb) for number, lb in enumerate(lbs)]
    assert [plateau(bests[:n], 0.02) for n in range(1, 6)] == [0, 1, 2, 3, 0]


@pytest.mark.parametrize("band", [0.014, 0.02, 0.03])
def test_the_papers_proxy_falls_after_round_three_and_not_before(band: float) -> None:
    noise = Noise(dev_band=band, lb=lb_noise(2, 0.01, 0.01**2 / 2))
    verdicts = [divergence(PAPER[:n], noise).verdict for n in range(1, 6)]
    assert verdicts == ["evidence", "evidence", "evidence", "not_evidence", "not_evidence"]


def test_the_reason_states_the_figures() -> None:
    reason = divergence(PAPER[:4], NOISE).reason
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
    assert divergence(bests, NOISE).verdict == expected


def test_a_slow_drift_adds_up() -> None:
    bests = [RoundBest(n, 0.80 + 0.02 * n, 0.80 + 0.002 * n) for n in range(5)]
    verdicts = [divergence(bests[:n], NOISE).verdict for n in range(1, 6)]
    assert verdicts == ["evidence", "evidence", "suspect", "not_evidence", "not_evidence"]


def test_a_confirmed_record_restores_dev() -> None:
    bests = [*PAPER, RoundBest(5, 0.95, 0.92)]
    assert divergence(bests, NOISE).verdict == "evidence"


def probes(*gains: tuple[float, float]) -> list[Probe]:
    return [Probe(f"c{i:02d}", dev, 0.015, lb) for i, (dev, lb) in enumerate(gains, start=1)]


def test_several_probes_decide_where_one_does_not() -> None:
    """Each raises dev by as much as three standard errors, and the leaderboard by nothing."""
    idle = [0.0, 0.0, -0.01, -0.01, 0.0]

    def judged(*gains: tuple[float, float]) -> Passage | None:
        return passage(probes(*gains), [dev for dev, _ in gains] + idle, 0.02, 0.008**2)

    one = judged((0.05, 0.0))
    two = judged((0.05, 0.0), (0.05, 0.0), (0.04, 0.0))
    aligned = judged((0.05, 0.04), (0.03, 0.02), (0.04, 0.03))
    assert one and two and aligned
    assert [divergence(PAPER[:3], NOISE, found).verdict for found in (one, two, aligned)] == [
        "evidence",
        "suspect",
        "evidence",
    ]
    grave = judged((0.06, -0.03), (0.05, -0.02))
    assert divergence(PAPER[:3], NOISE, grave).verdict == "not_evidence"
    assert "passed on -0." in divergence(PAPER[:3], NOISE, grave).reason


def test_passage_is_unbiased_though_the_best_of_noisy_gains_are_submitted() -> None:
    """Seven moves of N(0, 0.02) true gains, of which the four of highest measured dev are probed: a
    plain slope falls short of 1, the shrunken one does not, and its z is standard normal."""
    generator = np.random.default_rng(5)
    shares, weights, zs, plain = [], [], [], []
    for _ in range(4000):
        true = generator.normal(0, 0.02, 7)
        dev = true + generator.normal(0, 0.015, 7)
        anchor = generator.normal(0, 0.007)
        lb = true + generator.normal(0, 0.007, 7) - anchor
        best = np.argsort(-dev)[:4]
        found = passage([Probe("c", dev[i], 0.015, lb[i]) for i in best], list(dev), 0.02, 0.007**2)
        if found is None:  # no dev rose
            continue
        shares.append(found.share)
        weights.append(found.se**-2)
        zs.append(found.z)
        plain.append(float(dev[best] @ lb[best] / (dev[best] @ dev[best])))
    assert np.mean(plain) < 0.75
    assert abs(np.average(shares, weights=weights) - 1) < 0.03
    assert abs(np.mean(zs)) < 0.1
    assert 0.8 < np.std(zs) < 1  # room is left for what a sound proxy weighs differently


def test_passage_needs_a_rise() -> None:
    assert passage([], [], 0.02, 1e-4) is None
    assert passage(probes((-0.05, -0.04)), [-0.05], 0.02, 1e-4) is None


SHARES = {"equation": 0.5, "cipher": 0.25, "bits": 0.25}  # of dev's items


def shares_found(passed: dict[str, float], seed: int) -> list[DomainShare]:
    """What is found where each domain's gains are passed on in that share: campaigns of four rounds
    of seven moves, whose four of highest measured dev are submitted."""
    generator = np.random.default_rng(seed)
    noise = {name: weight * 0.012**2 for name, weight in SHARES.items()}
    found = []
    for _ in range(300):
        probes, everyone = [], []
        for number in range(1, 5):
            anchor = generator.normal(0, 0.01)
            true = [{n: generator.normal(0, 0.03 * w) for n, w in SHARES.items()} for _ in range(7)]
            seen = [
                {n: v + generator.normal(0, noise[n] ** 0.5) for n, v in one.items()}
                for one in true
            ]
            everyone += seen
            for index in sorted(range(7), key=lambda i: -sum(seen[i].values()))[:4]:
                lb = sum(passed[n] * v for n, v in true[index].items()) - anchor
                probes.append(DomainProbe(number, seen[index], lb + generator.normal(0, 0.01)))
        share = leading_share(probes, everyone, noise, own=0.01**2, shared=0.01**2)
        if share is not None and share.domain == "equation":
            found.append(share)
    assert len(found) > 150  # it holds half of dev, so most gains come from it
    return found


def test_a_domain_that_passes_nothing_on_is_found_out() -> None:
    found = shares_found({"equation": 0.0, "cipher": 2.0, "bits": 2.0}, seed=3)
    assert abs(np.mean([share.share for share in found])) < 0.3
    assert np.mean([share.below(0.5) > 1.8 for share in found]) > 0.25


def test_a_sound_proxys_domain_is_hardly_ever_taken_for_lost() -> None:
    found = shares_found({"equation": 1.0, "cipher": 1.0, "bits": 1.0}, seed=4)
    assert abs(np.mean([share.share for share in found]) - 1) < 0.15
    assert np.mean([share.below(0.5) > 1.8 for share in found]) < 0.02


def test_a_lost_domain_makes_dev_no_evidence_though_others_carry_the_record() -> None:
    kept, lost = DomainShare("equation", 0.9, 0.2), DomainShare("equation", 0.0, 0.2)
    assert divergence(PAPER[:2], NOISE, None, kept).verdict == "evidence"
    judged = divergence(PAPER[:2], NOISE, None, lost)
    assert judged.verdict == "not_evidence"
    assert "passed on +0.00 of what equation added to dev" in judged.reason


def test_no_domain_leads_where_none_rose() -> None:
    noise = {"equation": 1e-4, "bits": 1e-4}
    fallen = {"equation": -0.05, "bits": -0.01}
    assert leading_share([DomainProbe(1, fallen, -0.05)], [fallen], noise, 1e-4, 1e-4) is None
    assert leading_share([], [fallen], noise, 1e-4, 1e-4) is None


def test_coarse_boards_have_coarser_noise() -> None:
    assert [lb_noise(decimals, 0.01, 0.0) for decimals in (2, 4, 1)] == [0.01, 0.01, 0.1]
    noise = Noise(dev_band=0.02, lb=lb_noise(1, 0.01, 0.0))
    assert divergence(PAPER[:4], noise).verdict == "evidence"


def test_noise_moves_from_the_prior_to_the_measurement() -> None:
    prior = 0.01**2 / 2
    none = SeedBand(None, 0, 0)
    assert by_recipe(prior, none, none) == Variance(prior, 2)
    wide = [by_recipe(prior, SeedBand(0.02, dof + 1, dof), none).value for dof in (1, 10, 1000)]
    assert wide == sorted(wide) and wide[-1] == pytest.approx(0.02**2, rel=0.01)
    assert rounding(2) == pytest.approx(0.01**2 / 12)


def test_a_noisy_recipe_is_not_thought_as_quiet_as_the_one_before() -> None:
    """Other recipes' runs, however many, move no more than half of the prior."""
    prior, quiet = 0.02**2, SeedBand(0.001, 1001, 1000)
    unknown = by_recipe(prior, SeedBand(None, 0, 0), quiet)
    assert unknown.value == pytest.approx(prior / 2, rel=0.01) and unknown.dof == 2
    own = by_recipe(prior, SeedBand(0.04, 21, 20), quiet)
    assert own.value > 0.9 * 0.04**2


def test_a_prior_is_its_definition() -> None:
    assert 2 * math.sqrt(2 * implied_variance(0.02)) == pytest.approx(0.02)


def test_what_domains_scatter_by_is_told_from_the_items_and_from_one_effect() -> None:
    generator = np.random.default_rng(1)
    seen = []
    for _ in range(400):
        level = 0.6 + 0.05 * generator.standard_normal(9)
        level[0] += 0.3  # one move has an effect
        single = np.sqrt(0.4 * 0.24 / 100) * generator.standard_normal(9)
        runs = [{"cipher": (float(value), 100)} for value in level + single]
        seen.append(beyond_items(runs)["cipher"].value)
    assert 0.9 < float(np.mean(seen)) / 0.05**2 < 1.6  # a variance without robustness: 5
    assert beyond_items(runs[:3]) == {}


def test_few_degrees_of_freedom_widen_the_interval_and_raise_p() -> None:
    normal, few = Estimate(0.02, 0.01), Estimate(0.02, 0.01, dof=5)
    assert few.high > normal.high and few.p > normal.p
    assert few.p == pytest.approx(0.0510, abs=1e-4)  # Student's t
    assert Estimate(0.02, 0.01, dof=1e9).p == pytest.approx(normal.p, rel=1e-3)


def test_readings_are_weighed_by_precision() -> None:
    found = pool([[Reading(0.04, 0.02)], [Reading(0.01, 0.01)]])
    assert found is not None
    assert found.gain == pytest.approx((0.04 / 4 + 0.01) / 1.25)
    assert found.se == pytest.approx(1 / math.sqrt(1 / 0.02**2 + 1 / 0.01**2))
    assert pool([[], []]) is None


def test_independent_estimates_combine_by_precision() -> None:
    found = combined([Estimate(0.02, 0.01), Estimate(0.05, 0.02)])
    assert found.gain == pytest.approx((0.02 * 4 + 0.05) / 5)
    assert found.se == pytest.approx(0.01 * (4 / 5) ** 0.5)


def test_an_expected_gain_is_shrunk_to_where_gains_lie() -> None:
    assert expected(None, 0.02, 0.01) == (0.01, 0.02**2)
    mean, variance = expected(Estimate(0.05, 0.02), 0.02, 0.01)
    assert mean == pytest.approx(0.03) and variance == pytest.approx(0.02**2 / 2)


def test_replication_averages_only_what_is_not_shared() -> None:
    once = Reading(0.03, 0.05, shared=0.03)
    twice = replicated([once, once])
    assert twice is not None and twice.gain == 0.03
    assert twice.se == pytest.approx(math.sqrt(0.04**2 / 2 + 0.03**2))
    assert replicated([]) is None


def test_difference_to_the_mean_of_two_anchors() -> None:
    names = [f"i{index:03d}" for index in range(100)]
    anchors = [items(40, 100), items(50, 100)]
    gain, variance = item_difference(anchors, [items(60, 100)], names)
    assert gain == pytest.approx(0.15)
    changes = [0.0] * 40 + [0.5] * 10 + [1.0] * 10 + [0.0] * 40
    assert variance == pytest.approx(float(np.var(changes, ddof=1)) / 100)
    assert flip_variance(anchors, names) == pytest.approx(0.10 / 2 / 100)
    assert flip_variance(anchors[:1], names) == 0.0


def test_detectable_effect_has_the_power_it_says() -> None:
    size = detectable(0.01, alpha=0.05, tests=7)
    draws = np.random.default_rng(1).normal(size, 0.01, 20_000)
    found = np.mean([above_zero(draw, 0.01) <= 0.05 / 7 for draw in draws])
    assert found == pytest.approx(0.8, abs=0.01)


def test_spread_of_effects_is_recovered() -> None:
    generator = np.random.default_rng(2)
    for true in (0.01, 0.02):
        seen = generator.normal(0, math.hypot(true, 0.01), 2000)
        assert spread([Estimate(x, 0.01) for x in seen], 0.02) == pytest.approx(true, rel=0.1)
    assert spread([], 0.02) == pytest.approx(0.02)


def test_a_trial_is_worth_most_where_it_may_change_the_decision() -> None:
    def worth(known: Estimate | None) -> float:
        return value_of_trial(known, noise=0.012, spread=0.02)

    fresh = worth(None)
    assert worth(Estimate(0.03, 0.012)) > worth(Estimate(0.015, 0.012)) > fresh
    assert fresh > worth(Estimate(0.0, 0.012)) > worth(Estimate(-0.03, 0.012)) >= 0
    # Monte Carlo of the definition: E[max(0, posterior mean)]
    generator = np.random.default_rng(3)
    true = generator.normal(0, 0.02, 400_000)
    seen = true + generator.normal(0, 0.012, true.size)
    posterior = seen * 0.02**2 / (0.02**2 + 0.012**2)
    assert fresh == pytest.approx(np.maximum(0, posterior).mean(), rel=0.01)
