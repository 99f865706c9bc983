"""Collateral damage: a change that lifts one domain and destroys another is named."""

import dataclasses
from pathlib import Path

import pytest

from aevo.evidence import wording
from aevo.evidence.collateral import damage
from aevo.evidence.inputs import read_rounds
from aevo.evidence.verify import verify
from aevo.files.documents import read
from aevo.files.paths import Layout
from aevo.records.evidence import Evidence
from aevo.view.report import write_report
from tests.support.builders import Effect, World, play, start_campaign

# Equations in symbols for bits, as a public solution had it; the mean over dev hides it.
WORLD = World(
    {
        "trace_equation/m1": Effect(domains={"equation": 0.40, "bits": -0.30}, lb=0.0),
        "mix_equation/m1": Effect(domains={"equation": 0.20, "bits": -0.04}, lb=0.0),
        "clip/m1": Effect(dev=-0.05, lb=-0.04),
    }
)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Rounds until both changes of the world were tried."""
    layout = start_campaign(tmp_path_factory.mktemp("collateral") / "camp")
    for number in range(1, 4):
        play(layout, number, WORLD)
    return layout


def tried(campaign: Layout) -> dict[str, tuple[Evidence, int]]:
    """Evidence and place of the first explorer of each move."""
    found: dict[str, tuple[Evidence, int]] = {}
    for folder in campaign.rounds():
        evidence = read(Evidence, folder.evidence)
        for place, summary in enumerate(evidence.candidates):
            found.setdefault(f"{summary.axis}/{summary.move}", (evidence, place))
    return found


def test_a_domain_that_pays_for_another_is_named(campaign: Layout) -> None:
    evidence, place = tried(campaign)["trace_equation/m1"]
    summary = evidence.candidates[place]
    assert summary.comparison is not None
    assert summary.comparison.gain > 0  # dev as a whole rose
    assert list(summary.comparison.damaged) == ["bits"]
    assert summary.comparison.damaged["bits"] < 1e-6
    said = f"{summary.candidate} (m1) cost bits -0.30"
    assert said in evidence.patterns.text
    assert "for equation +0.40" in evidence.patterns.text
    assert any("bits is damaged" in item.text for item in evidence.surprises)
    assert said in wording.render(evidence)
    assert verify(campaign) == []


def test_small_falls_and_chance_are_not(campaign: Layout) -> None:
    found = tried(campaign)
    for name in ("mix_equation/m1", "clip/m1"):
        evidence, place = found[name]
        comparison = evidence.candidates[place].comparison
        assert comparison is not None and comparison.damaged == {}
    for evidence, _ in found.values():
        for summary in evidence.candidates:  # a stack may hold the change that damages
            if summary.comparison and "data.trace.domains.equation" not in summary.change.set:
                assert not summary.comparison.damaged, summary.text


def test_a_fall_that_so_many_tests_may_show_is_chance(campaign: Layout) -> None:
    facts = read_rounds(campaign, 1)[-1]
    anchor = facts.anchor
    assert anchor is not None
    bits = sorted(item for item, name in anchor.domain_of.items() if name == "bits")
    right = [item for item in bits if anchor.correct[item]]
    wrong = [item for item in bits if not anchor.correct[item]]

    def explorer(lost: int, won: int) -> dict[str, dict[str, float]]:
        flipped = dict.fromkeys(right[:lost], False) | dict.fromkeys(wrong[:won], True)
        one = dataclasses.replace(anchor, correct=anchor.correct | flipped)
        return damage(anchor, [one])

    who = anchor.plan.id
    assert explorer(22, 10) == {who: {}}  # 12 points, p 0.05 alone and 0.3 among six domains
    assert list(explorer(22, 0)[who]) == ["bits"]
    assert explorer(9, 0) == {who: {}}  # 9 points: less than another seed may do


def test_the_report_names_it(campaign: Layout, tmp_path: Path) -> None:
    write_report(campaign.root, tmp_path)
    for name in ("report.md", "index.html"):
        text = (tmp_path / name).read_text()
        assert "ollateral damage" in text and "bits -0.300" in text
