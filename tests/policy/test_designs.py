"""Designs: which moves the next round tries, and which of them together."""

from pathlib import Path

import pytest

from aevo.config.policy import PolicySettings
from aevo.policy import document as policies
from aevo.policy.rotation import categories_of
from aevo.records.policy import Policy
from aevo.substrate.catalogue import shared_knobs
from tests.support.builders import Effect, World, catalogue, play, start_campaign


def after_one(folder: Path, world: World, most: int = 3, stacks: int = 7) -> Policy:
    """The policy of round 2; the constitution has judged it."""
    settings = PolicySettings(stack_up_to=most, stacks_per_round=stacks)
    layout = start_campaign(folder / "camp", settings=settings)
    play(layout, 1, world, quota=8)
    return policies.read(layout, 2)


@pytest.mark.parametrize("most", [2, 3])
def test_candidates_try_several_moves_and_share_no_knob(tmp_path: Path, most: int) -> None:
    found = after_one(tmp_path, World({"rank/m1": Effect(dev=0.02, lb=0.01)}), most)
    together = [axis for axis in found.axes if axis.combines]
    assert len(found.axes) == 7 and len(together) > 1
    assert all(2 <= len(axis.combines) <= most for axis in together)
    assert len({axis.axis for axis in found.axes}) == 7
    for index, one in enumerate(found.axes):
        for other in found.axes[index + 1 :]:
            assert not shared_knobs(one.knobs, other.knobs)
    spanned = {name for axis in found.axes for name in categories_of(catalogue(), axis)}
    assert len(spanned) >= 5


def test_what_lost_is_no_part_of_a_design(tmp_path: Path) -> None:
    world = World({"rank/m1": Effect(dev=0.012, lb=0.0), "clip/m1": Effect(dev=-0.05, lb=-0.05)})
    found = after_one(tmp_path, world)
    assert all(axis.figure.endswith(" expected") for axis in found.axes if axis.combines)
    tried = {(part.axis, part.move) for axis in found.axes for part in axis.combines}
    assert ("clip", "m1") not in tried


def test_the_operator_may_keep_to_single_moves(tmp_path: Path) -> None:
    found = after_one(tmp_path, World({}), stacks=1)
    assert not any(axis.combines for axis in found.axes)


def test_by_default_at_least_two_places_are_left_to_single_axes(tmp_path: Path) -> None:
    layout = start_campaign(tmp_path / "camp")
    play(layout, 1, World({"rank/m1": Effect(dev=0.02, lb=0.01)}), quota=8)
    found = policies.read(layout, 2)
    designed = [axis for axis in found.axes if axis.figure.endswith(" expected")]
    assert len(found.axes) == 7 and 2 <= len(designed) <= 5
    assert len({axis.axis for axis in found.axes}) == 7
    alone = [axis for axis in found.axes if axis not in designed]
    assert not any(axis.combines for axis in alone)


def test_while_dev_misleads_single_moves_are_tried_by_what_transfers(tmp_path: Path) -> None:
    proxy = Effect(domains={"equation": 0.5})
    world = World({f"{axis.id}/m1": proxy for axis in catalogue().axes})
    found = after_one(tmp_path, world, stacks=5)
    assert found.mode == "transfer"
    assert not any(axis.figure.endswith(" expected") for axis in found.axes)
    assert {axis.axis for axis in found.axes if axis.transfer} == {"rebalance", "reweigh"}
