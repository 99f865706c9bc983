"""Every checked rule of the constitution, kept by the real proposal and broken once each."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aevo.errors import RecordError, SubstrateError
from aevo.files.documents import read
from aevo.policy import constitution
from aevo.policy import document as policies
from aevo.policy.bundles import brief_for
from aevo.policy.case import Case, History
from aevo.policy.constitution import RULES
from aevo.policy.rotation import used_categories
from aevo.records.change import Change
from aevo.records.evidence import Evidence
from aevo.records.policy import (
    AxisBrief,
    DeadEnd,
    MoveRef,
    OwnMove,
    Provenance,
    RetiredAxis,
    StandingChange,
)
from aevo.records.proposal import Proposal
from tests.support.builders import CONSTITUTION, World, catalogue, paper_world, play, start_campaign

CITED = Provenance(round=1, candidate="c01", figure="dev +0.04")
Break = Callable[[Case], Case]


def load_case(root: Path, world: World, number: int) -> Case:
    """The real proposal of that round of a campaign played in that world."""
    layout = start_campaign(root)
    for played in range(1, number + 1):
        play(layout, played, world)
    folder = layout.round(number)
    return Case(
        read(Proposal, folder.meta / "proposal.json"),
        read(Evidence, folder.evidence),
        policies.read(layout, number),
        History(catalogue()),
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Round 1 of the paper's story: a promotion, dead ends, nothing unusual."""
    return load_case(tmp_path_factory.mktemp("first") / "camp", paper_world(), 1)


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Round 3 of the paper's story: dev is no longer evidence."""
    return load_case(tmp_path_factory.mktemp("diverged") / "camp", paper_world(), 3)


@pytest.fixture(scope="module")
def plateaued(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Two rounds in which nothing helps the leaderboard."""
    return load_case(tmp_path_factory.mktemp("plateau") / "camp", World({}), 2)


def flagged(case: Case, which: str) -> Case:
    """The same proposal where the judge flagged the run that a promotion (or dead end) cites."""
    cited = case.added if which == "promoted" else case.policy.dont_waste_budget_on
    name = cited[0].provenance.candidate
    candidates = [
        item.model_copy(update={"flags": ["seed: ignored"]}) if item.candidate == name else item
        for item in case.evidence.candidates
    ]
    evidence = case.evidence.model_copy(update={"candidates": candidates})
    return Case(case.proposal, evidence, case.previous, case.history)


def with_policy(case: Case, **update: Any) -> Case:
    policy = case.policy.model_copy(update=update)
    proposal = case.proposal.model_copy(update={"policy": policy})
    return Case(proposal, case.evidence, case.previous, case.history)


def with_evidence(case: Case, **update: Any) -> Case:
    evidence = case.evidence.model_copy(update=update)
    return Case(case.proposal, evidence, case.previous, case.history)


def with_candidate(case: Case, name: str, **update: Any) -> Case:
    changed = [
        item.model_copy(update=update) if item.candidate == name else item
        for item in case.evidence.candidates
    ]
    return with_evidence(case, candidates=changed)


def promoted(candidate: str, change: Change, name: str = "p") -> StandingChange:
    cited = CITED.model_copy(update={"candidate": candidate})
    return StandingChange(id=name, axis="a", change=change, provenance=cited)


def axes_but_last(case: Case, last: AxisBrief) -> list[AxisBrief]:
    return [*case.policy.axes[:-1], last]


def brief(name: str, **update: Any) -> AxisBrief:
    found = catalogue().axis(name)
    assert found is not None
    return found.brief_for([], "test").model_copy(update=update)


def stack(*moves: str) -> AxisBrief:
    refs = [MoveRef(axis=axis, move=move) for axis, _, move in (m.partition("/") for m in moves)]
    return (
        brief_for(refs, catalogue(), "test")
        if catalogue().moves(refs)
        else AxisBrief(axis="stack", category="stack", brief="", combines=refs, reason="test")
    )


def same_category(case: Case) -> list[AxisBrief]:
    return [
        AxisBrief(axis=f"a{i}", category="loss", brief="", knobs=[f"k{i}"], reason="")
        for i in range(len(case.policy.axes))
    ]


def dead(case: Case, **update: Any) -> list[DeadEnd]:
    item = DeadEnd(id="x/y", axis="x", move="y", what="lost", provenance=CITED)
    return [*case.policy.dont_waste_budget_on, item.model_copy(update=update)]


def noise(case: Case, **update: Any) -> Case:
    return with_policy(case, noise=case.policy.noise.model_copy(update=update))


def no_rest(case: Case) -> Case:
    return with_policy(case, axes=case.previous.axes)


def uncited(case: Case) -> Case:
    empty = Provenance(round=1, figure=" ")
    spoilt = case.proposal.discoveries[0].model_copy(update={"provenance": empty})
    proposal = case.proposal.model_copy(update={"discoveries": [spoilt]})
    return Case(proposal, case.evidence, case.previous, case.history)


def repeated_discovery(case: Case) -> Case:
    old = case.proposal.discoveries[0].model_copy(update={"round": 0})
    return Case(case.proposal, case.evidence, case.previous, History(catalogue(), (old,)))


def own(source: str | None = None, **keys: int) -> OwnMove:
    """A move that a policy states itself."""
    return OwnMove(id="mine", set={f"train.{k}": v for k, v in keys.items()}, source=source)


# rule, which case, what is done to it, words of the fault
BROKEN: list[tuple[str, str, Break, str]] = [
    (
        "R1",
        "first",
        lambda c: with_candidate(c, "c01", lb_gain=-0.02),
        "leaderboard loss of -0.020",
    ),
    (
        "R2",
        "first",
        lambda c: with_policy(c, standing=[promoted("c04", c.evidence.candidates[4].change)]),
        "has not earned promotion",
    ),
    (
        "R2",
        "diverged",
        lambda c: with_policy(
            c,
            standing=[
                *c.policy.standing,
                StandingChange(
                    id="p",
                    axis="mix_equation",
                    change=c.evidence.candidates[1].change,
                    provenance=Provenance(round=3, candidate="c01", figure="dev +0.067"),
                ),
            ],
        ),
        "has not earned promotion",
    ),
    ("R3", "diverged", lambda c: with_policy(c, objective="maximise_dev"), "does not go with mode"),
    (
        "R3",
        "diverged",
        lambda c: with_policy(c, objective="maximise_dev", mode="proxy_exploitation"),
        "dev is not evidence, yet",
    ),
    (
        "R3",
        "first",
        lambda c: with_policy(c, objective="maximise_transfer", mode="transfer"),
        "dev is abandoned though the verdict is evidence",
    ),
    (
        "R3",
        "diverged",
        lambda c: with_policy(c, selection=c.previous.selection),
        "still selected by raw dev",
    ),
    (
        "R6",
        "first",
        lambda c: with_policy(c, standing=[promoted("c01", Change(set={"data.examples": 9}))]),
        "not the change that c01 measured",
    ),
    (
        "R6",
        "first",
        lambda c: with_policy(c, standing=[promoted("c99", Change(set={"a": 9}))]),
        "cites no explorer",
    ),
    (
        "R6",
        "diverged",
        lambda c: with_policy(c, standing=[]),
        "earlier standing changes were altered",
    ),
    (
        "R7",
        "first",
        lambda c: with_policy(
            c,
            standing=[
                promoted("c01", Change(set={"train.lora": {}}), "p"),
                promoted("c03", Change(set={"train.lora.rank": 1}), "q"),
            ],
        ),
        "p and q both touch train.lora",
    ),
    (
        "R7",
        "first",
        lambda c: with_policy(
            c,
            standing=[
                promoted("c01", Change(set={"train.lora.rank": 1}), "p"),
                promoted("c03", Change(set={"train.steps": 1}), "q"),
            ],
        ),
        "2 changes are promoted, the noise rule admits 1",
    ),
    (
        "R8",
        "first",
        lambda c: with_candidate(c, "c00", change=Change(set={"a": 1})),
        "the anchor c00 changed its recipe",
    ),
    ("R8", "first", lambda c: with_candidate(c, "c01", role="anchor"), "has 2 anchors"),
    ("R9", "first", lambda c: with_policy(c, round=3), "for round 3, not 2"),
    ("R9", "first", lambda c: with_evidence(c, round=5), "policy of 1"),
    (
        "R11",
        "first",
        lambda c: with_policy(c, axes=axes_but_last(c, brief("rank", reason="bits is at 0.02"))),
        "its worker is told no score (0.02)",
    ),
    (
        "R11",
        "first",
        lambda c: with_policy(c, axes=axes_but_last(c, brief("rank", reason="as c01 did"))),
        "knows no other candidate",
    ),
    (
        "R15",
        "first",
        lambda c: with_policy(c, axes=axes_but_last(c, brief("rank", axis="own", moves=["m1"]))),
        "leave out `moves` (m1)",
    ),
    (
        "R15",
        "first",
        lambda c: with_policy(c, axes=axes_but_last(c, brief("rank", own=[own(rate=3)]))),
        "rank/mine touches train.rate, which is no knob",
    ),
    (
        "R15",
        "first",
        lambda c: with_policy(
            c, axes=axes_but_last(c, brief("rank", own=[own(source="r01-c09", **{"lora.rank": 3})]))
        ),
        "rank/mine is not the change that r01-c09 measured",
    ),
    (
        "R15",
        "first",
        lambda c: with_policy(c, axes=axes_but_last(c, brief("rank", trainings=3))),
        "before trainings could be allotted",
    ),
    ("R15", "first", lambda c: with_policy(c, trainings=9), "the operator's choice"),
    ("R12", "first", lambda c: with_policy(c, axes=c.policy.axes[:-1]), "6 axes for 7 explorers"),
    (
        "R12",
        "first",
        lambda c: with_policy(c, axes=axes_but_last(c, c.policy.axes[0])),
        "is assigned twice",
    ),
    (
        "R13",
        "first",
        lambda c: with_policy(c, axes=same_category(c)),
        "span 1 categories, 5 are needed",
    ),
    (
        "R13",
        "first",
        lambda c: with_policy(
            c, axes=axes_but_last(c, brief("traces", knobs=c.policy.axes[0].knobs, axis="own"))
        ),
        "and own share",
    ),
    ("R14", "plateaued", no_rest, "no category of this round rests"),
    (
        "R15",
        "first",
        lambda c: with_policy(c, axes=axes_but_last(c, brief("rank", category="loss"))),
        "differs from the catalogue",
    ),
    (
        "R15",
        "first",
        lambda c: with_policy(c, axes=axes_but_last(c, brief("rank", moves=["m99"]))),
        "rank has no move m99",
    ),
    (
        "R15",
        "first",
        lambda c: with_policy(c, axes=axes_but_last(c, brief("rank", axis="own", knobs=[]))),
        "states no knobs",
    ),
    (
        "R15",
        "first",
        lambda c: with_policy(c, axes=axes_but_last(c, stack("rank/m2", "mask/m99"))),
        "combines rank/m2, mask/m99, which are not all moves of the catalogue",
    ),
    (
        "R15",
        "first",
        lambda c: with_policy(c, axes=axes_but_last(c, stack("rank/m2"))),
        "combines 1 moves, 2 to 3 are allowed",
    ),
    (
        "R15",
        "first",
        lambda c: with_policy(c, axes=axes_but_last(c, stack("rank/m2", "rank/m3"))),
        "combines moves that touch",
    ),
    (
        "R15",
        "first",
        lambda c: with_policy(
            c, axes=axes_but_last(c, stack("rank/m2", "mask/m2").model_copy(update={"knobs": []}))
        ),
        "which it does not state",
    ),
    (
        "R15",
        "first",
        lambda c: with_policy(
            c,
            axes=axes_but_last(c, stack("rank/m2", "mask/m2").model_copy(update={"axis": "rank"})),
        ),
        "is an axis of the catalogue",
    ),
    ("R15", "first", lambda c: with_policy(c, stack_up_to=9), "the operator's choice"),
    (
        "R16",
        "first",
        lambda c: with_policy(c, axes=axes_but_last(c, stack("rank/m2", "clip/m1"))),
        "clip/m1 is a dead end",
    ),
    (
        "R16",
        "first",
        lambda c: with_policy(c, axes=axes_but_last(c, brief("clip", moves=["m1"]))),
        "clip/m1 is a dead end",
    ),
    (
        "R16",
        "first",
        lambda c: with_policy(c, axes=axes_but_last(c, brief("learning_rate", moves=["m1"]))),
        "learning_rate/m1 already stands",
    ),
    (
        "R16",
        "first",
        lambda c: with_policy(c, retired=[RetiredAxis(category="loss", provenance=CITED)]),
        "loss is retired",
    ),
    (
        "R19",
        "diverged",
        lambda c: with_policy(c, dont_waste_budget_on=c.policy.dont_waste_budget_on[1:]),
        "dead end clip/m1 was removed",
    ),
    (
        "R19",
        "first",
        lambda c: with_policy(
            c, dont_waste_budget_on=dead(c, provenance=Provenance(round=1, figure="x"))
        ),
        "cites no candidate",
    ),
    (
        "R19",
        "first",
        lambda c: with_policy(
            c, dont_waste_budget_on=dead(c, provenance=CITED.model_copy(update={"figure": ""}))
        ),
        "rests on no figure",
    ),
    ("R20", "first", lambda c: noise(c, promotion_threshold=0.005), "below the prior"),
    ("R20", "first", lambda c: noise(c, prior=0.001), "priors were changed"),
    ("R20", "first", lambda c: noise(c, band_prior=0.001), "priors were changed"),
    ("R20", "first", lambda c: noise(c, seed_sd=0.5), "not the measured"),
    (
        "R20",
        "first",
        lambda c: noise(c, provenance=Provenance(round=0, figure="a feeling")),
        "without a measurement of this round",
    ),
    (
        "R21",
        "diverged",
        lambda c: with_policy(
            c, selection=c.policy.selection.model_copy(update={"weights": {"algebra": 1.0}})
        ),
        "unknown domains are weighed: algebra",
    ),
    (
        "R21",
        "diverged",
        lambda c: with_policy(
            c, selection=c.policy.selection.model_copy(update={"weights": {"bits": -1.0}})
        ),
        "negative",
    ),
    ("R22", "first", uncited, "cites no figure"),
    ("R22", "first", repeated_discovery, "already in the log"),
    ("R22", "first", lambda c: with_policy(c, provenance=[]), "does not cite round 1"),
    ("R24", "first", lambda c: with_policy(c, beliefs=[]), "not the posterior of the trials"),
    ("R25", "first", lambda c: flagged(c, "promoted"), "whose run is flagged"),
    ("R25", "first", lambda c: flagged(c, "dead"), "whose run is flagged"),
]


def test_the_text_and_the_functions_are_the_same_rules() -> None:
    text = CONSTITUTION.read_text()
    assert constitution.checked_rules(text) == list(RULES)
    assert {rule for rule, *_ in BROKEN} == set(RULES)
    numbered = [line.split()[0] for line in text.splitlines() if line.startswith("R")]
    assert numbered == [f"R{number}" for number in range(1, len(numbered) + 1)]
    marks = [line.split()[1] for line in text.splitlines() if line.startswith("R")]
    assert set(marks) == {"[checked]", "[principle]"}


@pytest.mark.long(3)
@pytest.mark.parametrize("name", ["first", "diverged", "plateaued"])
def test_the_real_proposals_keep_every_rule(name: str, request: pytest.FixtureRequest) -> None:
    case: Case = request.getfixturevalue(name)
    verdict = constitution.check(case.proposal, case.evidence, case.previous, case.history)
    assert [(item.rule, item.text) for item in verdict.rules] == [(rule, "holds") for rule in RULES]
    assert verdict.accepted


@pytest.mark.parametrize(
    ("rule", "name", "spoil", "words"),
    BROKEN,
    ids=[f"{rule}-{index}" for index, (rule, *_) in enumerate(BROKEN)],
)
def test_a_broken_rule_is_named(
    rule: str, name: str, spoil: Break, words: str, request: pytest.FixtureRequest
) -> None:
    spoilt = spoil(request.getfixturevalue(name))
    verdict = constitution.check(spoilt.proposal, spoilt.evidence, spoilt.previous, spoilt.history)
    result = next(item for item in verdict.rules if item.rule == rule)
    assert not result.passed and not verdict.accepted
    assert words in result.text


def test_dev_comes_back_only_when_it_has_regained_its_standing(diverged: Case) -> None:
    previous = diverged.policy.model_copy(update={"round": 3})
    back = with_policy(diverged, objective="maximise_dev", mode="stack_and_calibrate")
    for slope_low, passed in [(0.3, False), (0.7, True)]:
        found = diverged.evidence.calibration.model_copy(
            update={"verdict": "evidence", "slope_low": slope_low}
        )
        case = with_evidence(back, calibration=found)
        case = Case(case.proposal, case.evidence, previous, case.history)
        assert constitution.apply("R3", case).passed is passed


def test_plateau_rotates_a_category_out_and_an_idle_one_in(plateaued: Case) -> None:
    assert plateaued.evidence.calibration.plateau_rounds == 2
    before, after = (
        set(used_categories(catalogue(), policy.axes))
        for policy in (plateaued.previous, plateaued.policy)
    )
    assert before - after and (after - before or before == set(catalogue().categories))
    rests = [item for item in plateaued.policy.retired if item.category]
    assert [(item.until_round, item.provenance.round) for item in rests] == [(3, 2)]
    assert any(item.kind == "rotation" for item in plateaued.proposal.discoveries)


def test_rotation_is_not_asked_of_a_catalogue_that_cannot(plateaued: Case) -> None:
    """Six axes of six categories for six explorers: no category can be spared."""
    small = catalogue().model_copy(update={"axes": [a for a in catalogue().axes if a.id in NARROW]})
    axes = [axis.brief_for([], "") for axis in small.axes]
    previous = plateaued.previous.model_copy(update={"axes": axes})
    case = with_policy(plateaued, axes=axes)
    case = Case(case.proposal, case.evidence, previous, History(small))
    assert constitution.apply("R14", case).passed


NARROW = {"learning_rate", "clip", "rank", "mask", "mix_bits", "traces"}


def test_an_axis_of_its_own_is_allowed(first: Case) -> None:
    own = AxisBrief(axis="mine", category="loss", brief="", knobs=["a.b"], reason="new idea")
    assert constitution.apply("R15", with_policy(first, axes=[own])).passed


def test_a_stack_is_allowed(first: Case) -> None:
    case = with_policy(first, axes=[stack("rank/m2", "mask/m2", "traces/m3")])
    assert constitution.apply("R15", case).passed and constitution.apply("R16", case).passed


def test_the_constitution_is_the_pinned_one(tmp_path: Path) -> None:
    path = tmp_path / "constitution.txt"
    path.write_bytes(b"R1 [checked] be good\n")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert constitution.load(path, digest) == "R1 [checked] be good\n"
    path.write_bytes(b"R1 [checked] be bad\n")
    with pytest.raises(SubstrateError, match=r"constitution\.txt has digest"):
        constitution.load(path, digest)
    with pytest.raises(RecordError, match="cannot be read"):
        constitution.load(tmp_path / "none.txt", digest)


def test_a_dev_gain_alone_promotes_nothing_while_dev_is_suspect(first: Case) -> None:
    suspect = first.evidence.calibration.model_copy(update={"verdict": "suspect"})
    case = with_evidence(first, calibration=suspect)
    silent = with_candidate(case, "c01", lb_gain=None, external=None)
    assert not constitution.apply("R2", silent).passed
    found = first.evidence.candidates[1].effect
    assert found is not None and found.p_adjusted <= 0.05
    confirmed = with_candidate(case, "c01", external=found)
    assert constitution.apply("R2", confirmed).passed
