"""A move's story, told from a campaign's records; and the beliefs that it rests on."""

import subprocess
import sys

import pytest

from aevo.errors import ConfigError
from aevo.files.paths import Layout
from aevo.policy import document as policies
from aevo.policy.posterior import Trust, posterior
from aevo.records.policy import MoveRef, Policy, Trial
from aevo.view.explanation import ended, resolve, story
from tests.support.builders import Effect, World, play, start_campaign

WORLD = World({"learning_rate/m1": Effect(dev=0.06, lb=0.06), "rank/m1": Effect(dev=-0.2, lb=-0.1)})


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = start_campaign(tmp_path_factory.mktemp("told") / "camp")
    for number in (1, 2):
        play(layout, number, WORLD)
    return layout


def told(layout: Layout, name: str) -> str:
    rounds = ended(layout)
    return "\n".join(story(resolve(name, rounds), rounds))


def test_why_a_move_stands(campaign: Layout) -> None:
    text = told(campaign, "learning_rate/m1")
    assert "Round 1, c01: tried alone, dev +0.0" in text
    assert "nothing was known of it; after, expected +0.0" in text
    assert "It stands as r01-c01-m1: established by" in text


def test_why_a_move_is_a_dead_end(campaign: Layout) -> None:
    text = told(campaign, "rank/m1")
    assert "It is a dead end since round 1: at most -0.1" in text
    assert "(a gain at 0%)" in text


def test_a_name_that_several_moves_have_lists_them(campaign: Layout) -> None:
    with pytest.raises(ConfigError, match=r"m1 is the name of several moves.*learning_rate/m1"):
        resolve("m1", ended(campaign))
    with pytest.raises(ConfigError, match="m99 was not tried"):
        resolve("m99", ended(campaign))


def test_the_command(campaign: Layout) -> None:
    command = [sys.executable, "-m", "aevo.explain", "rank/m1", str(campaign.root)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.startswith("rank/m1\n")


# -- beliefs ---------------------------------------------------------------------------------------


def trial(number: int, gain: float, *moves: str, dev_se: float = 0.01) -> Trial:
    parts = [MoveRef(axis=name, move="m") for name in moves]
    return Trial(
        axis=moves[0] if len(moves) == 1 else "stack",
        move="m",
        round=number,
        candidate="c01",
        gain=gain,
        dev=gain,
        dev_se=dev_se,
        lb_gain=None,
        change_sha256="+".join(moves),
        combines=parts if len(moves) > 1 else [],
        outcome="undecided",
        reason="",
    )


def of(*moves: str) -> list[MoveRef]:
    return [MoveRef(axis=name, move="m") for name in moves]


def test_a_belief_is_shrunk_and_grows_with_trials() -> None:
    one = posterior([trial(1, 0.04, "a")], Trust(0.02)).of(of("a"))
    two = posterior([trial(1, 0.04, "a"), trial(2, 0.04, "a")], Trust(0.02)).of(of("a"))
    assert 0.03 < one.gain < two.gain < 0.04 and two.se < one.se


def test_a_bundle_speaks_for_its_parts_as_far_as_others_do_not_explain_it() -> None:
    known = [trial(1, 0.0, "a", dev_se=0.003), trial(2, 0.05, "a", "b")]
    found = posterior(known, Trust(0.02))
    assert found.of(of("b")).gain > 0.02 > 0.005 > found.of(of("a")).gain
    assert found.of(of("a", "b")).gain == pytest.approx(
        found.of(of("a")).gain + found.of(of("b")).gain
    )


def test_what_was_never_tried_is_at_the_prior() -> None:
    found = posterior([], Trust(0.02)).of(of("x"))
    assert found.gain == 0.0 and found.se > 0.02


def test_policies_hold_what_is_believed_and_old_ones_read_as_they_were(campaign: Layout) -> None:
    first, second = policies.read(campaign, 1), policies.read(campaign, 2)
    assert "beliefs" not in first.model_dump() and second.beliefs[0].axis == "learning_rate"
    assert second.beliefs[0].established and second.beliefs[0].probability > 0.95
    assert [item.established for item in second.beliefs if item.axis == "rank"] == [False]
    assert policies.digest(Policy.model_validate_json(first.model_dump_json())) == (
        policies.digest(first)
    )
    assert "established" not in second.model_dump()["standing"][0]
