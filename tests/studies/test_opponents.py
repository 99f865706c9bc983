"""What each opponent of the simulator does with what it is told: none may be a straw man."""

from collections.abc import Sequence

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from aevo.config import schema as configuration
from aevo.studies.simulation.campaign import Bench, bench_of
from aevo.studies.simulation.oracle import Oracle, knowledge
from aevo.studies.simulation.searchers import GreedyConfirmed, Halving, Observation, Thompson
from aevo.studies.simulation.space import Key, Recipe
from aevo.studies.simulation.surface import draw, preset
from aevo.substrate.catalogue import load
from tests.conftest import REPO


@pytest.fixture(scope="module")
def bench() -> Bench:
    with initialize_config_dir(str(REPO / "conf"), version_base=None):
        config = configuration.load(compose("config"))
    return bench_of(config, load(REPO / "substrate" / "default" / "axes.yaml"))


def told(
    recipes: Sequence[Recipe], boards: dict[int, float], dev: float = 0.6
) -> list[Observation]:
    """A batch in which all have one dev; those of `boards` were scored."""
    return [Observation(recipe, dev, boards.get(index)) for index, recipe in enumerate(recipes)]


def test_greedy_confirmed_keeps_what_won_twice_and_only_that(bench: Bench) -> None:
    method = GreedyConfirmed(bench.space, 1)
    first = method.propose(9)
    method.observe(told(first, {0: 0.60, 1: 0.61, 2: 0.66, 3: 0.60}))
    assert method.best == () and method.pending == first[2]

    second = method.propose(9)
    assert second[:2] == [(), first[2]]
    assert method.submitted(told(second, {}), 3)[0] == 1  # scored whatever its dev
    method.observe(told(second, {0: 0.62, 1: 0.61, 4: 0.60}))
    assert method.best == () and method.pending is None  # that was luck

    third = method.propose(9)
    method.observe(told(third, {0: 0.60, 5: 0.65}))
    fourth = method.propose(9)
    method.observe(told(fourth, {0: 0.60, 1: 0.63, 2: 0.60}))
    assert method.best == third[5] == fourth[1]


def test_halving_goes_on_with_the_better_half_and_averages_what_it_scored_again(
    bench: Bench,
) -> None:
    method = Halving(bench.space, 1)
    first = method.propose(9)
    boards = {index: 0.60 + 0.01 * index for index in range(9)}
    method.observe(told(first, boards))
    assert method.best == first[8]

    second = method.propose(9)
    assert second[:4] == [first[8], first[7], first[6], first[5]]  # scored again
    grown = [recipe for recipe in second[4:] if any(set(one) < set(recipe) for one in second[:4])]
    assert grown == second[4:]  # each the child of one of them
    method.observe(told(second, {0: 0.60, 1: 0.66}))  # the luckiest falls to a mean of 0.64
    assert method.best == first[7]


def effects(method: Thompson) -> np.ndarray:
    return method._belief()[0]


def test_thompson_learns_from_both_scores_and_stacks_at_most_four(bench: Bench) -> None:
    keys = [next(k for k in bench.space.keys if k[0] == a) for a in bench.space.category][:6]
    scored, unscored = Thompson(bench.space, 1), Thompson(bench.space, 1)
    anchor = Observation((), 0.6, 0.6)
    for _ in range(4):
        scored.observe([anchor, *(Observation((key,), 0.5, 0.65) for key in keys)])
        unscored.observe([anchor, *(Observation((key,), 0.65) for key in keys)])
    board, dev = (
        effects(item)[[item.place[key] for key in keys]].mean() for item in (scored, unscored)
    )
    assert board > dev > 0.005  # a dev score counts for half of a leaderboard's, and for a gain
    assert len(scored.best) == 4 and set(scored.best) <= set(keys)
    drawn = scored.propose(9)
    assert drawn[0] == scored.best and len(set(drawn)) > 4
    for recipe in drawn:
        assert len(recipe) <= 4 and bench.space.active(recipe) == recipe


def test_thompson_is_led_astray_where_dev_alone_rises(bench: Bench) -> None:
    key = bench.space.keys[0]
    method = Thompson(bench.space, 1)
    method.observe([Observation((), 0.6), *(Observation((key,), 0.7) for _ in range(3))])
    assert method.best == (key,)


def test_the_oracle_knows_how_surfaces_are_drawn_and_not_the_one_it_is_on(bench: Bench) -> None:
    chosen = preset("onset")
    known = knowledge(chosen, bench.space)
    assert known is knowledge(preset("onset"), bench.space)
    assert known.means.shape == (len(bench.space.keys), 3) and known.onset == 3
    assert known.means[:, 2].mean() == pytest.approx(0.5 * 0.06, abs=0.003)  # what a proxy adds
    assert known.means[:, 1].mean() == pytest.approx(0.6 * -0.01, abs=0.003)
    own = draw(chosen, bench.space, 1)
    true = own.hidden @ own.hidden_weights
    assert abs(np.corrcoef(known.means[:, 1], true)[0, 1]) < 0.4

    late, early = (Oracle(bench.space, 1, known, rounds) for rounds in (4, 2))
    costs = early._effects(early.mean) - late._effects(late.mean)
    assert costs == pytest.approx(known.proxy_cost * known.means[:, 2])  # from the onset on


def test_the_oracle_tells_a_proxys_dev_from_a_gain_on_the_target(bench: Bench) -> None:
    known = knowledge(preset("onset"), bench.space)
    start = known.start
    first, second = (
        bench.space.keys[0],
        next(key for key in bench.space.keys if key[0] != bench.space.keys[0][0]),
    )

    def belief(number: int) -> dict[Key, float]:
        """After a move that raised dev alone, and one that raised both."""
        method = Oracle(bench.space, 1, known, 4)
        method.number = number
        method.observe(
            [
                Observation((), start[0], start[1]),
                Observation((first,), start[0] + 0.06, start[1]),
                Observation((second,), start[0] + 0.06, start[1] + 0.06),
            ]
        )
        gains = method._effects(method.mean)
        return {key: float(gains[method.place[key]]) for key in (first, second)}

    misled = belief(3)
    assert misled[second] > misled[first] + 0.02 and misled[second] > 0.01
    assert belief(1)[first] > misled[first]  # before the onset dev speaks for the target
