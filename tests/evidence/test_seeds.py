"""Explorers are compared with the anchor's run of the same seed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aevo.evidence import collector
from aevo.evidence.build import build
from aevo.evidence.inputs import CandidateFacts, RoundFacts, domain_parts, read_round
from tests.support.builders import SEEDS, FakeBoard, World, paper_world, start_campaign, write_round


@pytest.fixture
def facts(tmp_path: Path) -> RoundFacts:
    layout = start_campaign(tmp_path / "camp")
    write_round(layout, 1, World({}))
    collector.collect(layout, 1, FakeBoard(layout, paper_world()))
    return read_round(layout, 1)


def on_second_seed(facts: RoundFacts) -> RoundFacts:
    """The round in which c01 changed nothing of weight and stands by the anchor's second seed."""
    anchor = facts.candidates[0]
    assert anchor.seeds == tuple(SEEDS) and len(anchor.replicates) == 1
    one = facts.candidates[1]
    assert one.manifest is not None
    second = anchor.replicates[0]
    dev = sum(second.values()) / len(second)
    run = one.manifest.runs[0]
    best = run.checkpoints[-1].model_copy(update={"dev": dev})
    run = run.model_copy(update={"seed": SEEDS[1], "checkpoints": [best]})
    manifest = one.manifest.model_copy(update={"runs": [run]})
    moved = replace(one, manifest=manifest, correct=second, seeds=(SEEDS[1],))
    return replace(facts, candidates=(anchor, moved, *facts.candidates[2:]))


def test_a_run_on_the_second_seed_is_compared_with_the_anchors_second(facts: RoundFacts) -> None:
    summary = build([on_second_seed(facts)]).candidates[1]
    assert summary.comparison is not None and summary.comparison.gain == 0
    assert summary.runs[0].gain == 0


def test_several_seeds_of_one_change_are_averaged_and_weigh_more(facts: RoundFacts) -> None:
    anchor, one = facts.candidates[:2]
    both = replace(one, correct=anchor.correct, replicates=anchor.replicates, seeds=anchor.seeds)
    single = replace(one, correct=anchor.correct, seeds=anchor.seeds[:1])
    found = [
        build([replace(facts, candidates=(anchor, item, *facts.candidates[2:]))]).candidates[1]
        for item in (single, both)
    ]
    first, mean = (item.readings for item in found)
    assert first is not None and mean is not None
    assert mean.dev == 0 and first.dev != 0
    assert mean.dev_se < first.dev_se


def with_checkpoints(item: CandidateFacts, count: int, spread: float) -> CandidateFacts:
    """The candidate as it is, but its checkpoint was the best of `count` noisy copies."""
    assert item.manifest is not None
    run = item.manifest.runs[0]
    best = run.checkpoints[-1]
    noisy = np.random.default_rng(5).normal(best.dev, spread, count - 1).clip(max=best.dev)
    copies = [
        best.model_copy(update={"name": f"copy-{i}", "step": best.step - count + i, "dev": dev})
        for i, dev in enumerate(noisy.tolist())
    ]
    run = run.model_copy(update={"checkpoints": [*copies, best]})
    manifest = item.manifest.model_copy(update={"runs": [run]})
    return replace(item, manifest=manifest)


def test_a_choice_among_many_copies_is_taken_off_the_gain(facts: RoundFacts) -> None:
    anchor, one = facts.candidates[:2]
    few, many = (
        build([replace(facts, candidates=(anchor, item, *facts.candidates[2:]))]).candidates[1]
        for item in (one, with_checkpoints(one, 64, 0.02))
    )
    assert few.readings is not None and many.readings is not None
    assert few.readings.selection == 0 and "checkpoints than the anchor" not in few.text
    taken = many.readings.selection
    assert taken > 0.02 and "checkpoints than the anchor had flatters" in many.text
    assert many.readings.dev == pytest.approx(few.readings.dev - taken, abs=1e-5)
    for name, gain in many.readings.domains.items():
        assert gain.gain == pytest.approx(few.readings.domains[name].gain - taken, abs=1e-5)
    own = dict(domain_parts(replace(facts, candidates=(anchor, with_checkpoints(one, 64, 0.02)))))
    raw = dict(domain_parts(facts))
    lost = sum(raw["c01"].values()) - sum(own["c01"].values())
    assert lost == pytest.approx(taken, abs=1e-5)
