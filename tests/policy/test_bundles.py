"""Stacks: undecided likely gains of several axes, tried together by one candidate."""

from dataclasses import replace
from pathlib import Path

import pytest

from aevo.config.policy import PolicySettings
from aevo.files.documents import read
from aevo.files.paths import Layout
from aevo.policy import document as policies
from aevo.policy.bundles import STACK, bundle
from aevo.policy.worth import Situation
from aevo.records.evidence import CandidateSummary, Evidence
from aevo.records.policy import AxisBrief, Policy
from aevo.substrate.catalogue import touches
from tests.support.builders import SINGLE, Effect, World, catalogue, play, start_campaign

pytestmark = pytest.mark.usefixtures("claims_only")
SMALL = Effect(dev=0.02, lb=0.01)  # one trial of it decides nothing
QUOTA = 8


def stack_of(policy: Policy) -> AxisBrief | None:
    return next((axis for axis in policy.axes if axis.axis == STACK), None)


def assigned(policy: Policy) -> AxisBrief:
    found = stack_of(policy)
    assert found is not None
    return found


def trial(layout: Layout, number: int) -> CandidateSummary:
    evidence = read(Evidence, layout.round(number).evidence)
    return next(item for item in evidence.candidates if item.axis == STACK)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """One stack of what is likely a round, beside single moves."""
    return start_campaign(tmp_path / "camp", settings=SINGLE)


def test_gains_too_small_to_decide_alone_are_promoted_together(layout: Layout) -> None:
    world = World({"rank/m1": SMALL, "mask/m1": SMALL, "learning_rate/m1": SMALL})
    play(layout, 1, world, QUOTA)
    second = policies.read(layout, 2)
    assert second.standing == []
    brief = assigned(second)
    assert {part.axis for part in brief.combines} == {"rank", "mask", "learning_rate"}
    assert "rank/m1" in brief.brief and "promise +0.0" in brief.figure
    play(layout, 2, world, QUOTA)
    found = trial(layout, 2)
    assert found.effect is not None and found.readings is not None
    assert found.readings.dev == pytest.approx(0.06, abs=0.01)
    third = policies.read(layout, 3)
    assert [item.axis for item in third.standing] == [STACK]
    assert sorted(touches(third.standing[0].change)) == sorted(brief.knobs)
    noted = next(item for item in third.tried if item.axis == STACK)
    assert noted.outcome == "promoted" and noted.combines == brief.combines
    again = [(axis.axis, move) for axis in third.axes for move in axis.moves]
    assert not {(part.axis, part.move) for part in brief.combines} & set(again)


def test_nobody_else_touches_what_the_stack_touches(layout: Layout) -> None:
    play(layout, 1, World({"rank/m1": SMALL, "mask/m1": SMALL}), QUOTA)
    second = policies.read(layout, 2)
    brief = assigned(second)
    others = [axis for axis in second.axes if axis is not brief]
    assert len(others) == 6 and not {knob for axis in others for knob in axis.knobs} & set(
        brief.knobs
    )


def test_one_likely_gain_is_no_stack(layout: Layout) -> None:
    play(layout, 1, World({"rank/m1": SMALL}), QUOTA)
    assert stack_of(policies.read(layout, 2)) is None


@pytest.mark.parametrize(("limit", "expected"), [(0, None), (1, None), (2, 2), (3, 3)])
def test_the_operator_bounds_stacks(tmp_path: Path, limit: int, expected: int | None) -> None:
    layout = start_campaign(
        tmp_path / "camp", settings=PolicySettings(stacks_per_round=1, stack_up_to=limit)
    )
    names = ("rank", "mask", "learning_rate", "clip")
    play(layout, 1, World({f"{name}/m1": SMALL for name in names}), QUOTA)
    second = policies.read(layout, 2)
    brief = stack_of(second)
    assert second.stack_up_to == limit
    assert expected == (len(brief.combines) if brief else None)


def test_a_stack_that_failed_leaves_its_moves_less_likely(layout: Layout) -> None:
    play(layout, 1, World({"rank/m1": SMALL, "mask/m1": SMALL}), QUOTA)
    brief = assigned(policies.read(layout, 2))
    lost = Effect(dev=-0.05, lb=-0.05)
    play(layout, 2, World({"rank/m1": lost, "mask/m1": lost}), QUOTA)
    third = policies.read(layout, 3)
    dead = next(item for item in third.dont_waste_budget_on if item.axis == STACK)
    assert dead.move == "+".join(part.move for part in brief.combines)
    assert third.standing == []
    again = stack_of(third)
    assert again is None or not {p.axis for p in again.combines} & {"rank", "mask"}


def test_while_dev_misleads_only_the_leaderboard_makes_a_move_likely(layout: Layout) -> None:
    """Every move lifts dev; two of them lift the leaderboard."""
    proxy, sound = Effect(dev=0.15, lb=0.0), Effect(dev=0.15, lb=0.03)
    names = (
        "learning_rate",
        "clip",
        "rank",
        "mask",
        "mix_bits",
        "traces",
        "mix_equation",
        "which_checkpoint",
        "trace_equation",
    )
    effects = {f"{name}/m1": proxy for name in names} | {"rank/m1": sound, "mask/m1": sound}
    play(layout, 1, World(effects), QUOTA)
    second = policies.read(layout, 2)
    assert second.mode == "transfer"
    brief = stack_of(second)
    assert brief is None or {part.axis for part in brief.combines} <= {"rank", "mask"}
    standing = {item.axis for item in second.standing}
    assert standing <= {"rank", "mask"}


def test_a_stack_that_gained_nothing_is_not_tried_again(layout: Layout) -> None:
    """On the leaderboard its moves still look good: the stack itself was not submitted."""
    names = {"rank", "mask", "learning_rate"}
    play(layout, 1, World({f"{name}/m1": SMALL for name in names}), QUOTA)
    play(layout, 2, World({f"{name}/m1": Effect(dev=-0.01) for name in names}), quota=1)
    after = policies.read(layout, 3)
    situation = Situation(
        evidence=read(Evidence, layout.round(2).evidence),
        policy=after,
        catalogue=catalogue(),
        mode="transfer",
        standing=[],
        dead_ends=[],
        tried=after.tried,
    )
    found = bundle(situation, [])
    assert found is not None and {part.axis for part in found.combines} < names
    forgetful = replace(situation, tried=[item for item in after.tried if not item.combines])
    again = bundle(forgetful, [])
    assert again is not None and {part.axis for part in again.combines} == names
