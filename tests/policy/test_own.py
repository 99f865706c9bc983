"""Changes that no catalogue has: told apart, kept, and tried again."""

from pathlib import Path
from typing import Any

import pytest

from aevo.evidence import collector
from aevo.evidence.build import build
from aevo.evidence.inputs import read_rounds
from aevo.files.documents import read, write_json
from aevo.files.paths import Layout
from aevo.meta.agent import judge as judge_draft
from aevo.meta.proposing import Question
from aevo.meta.rules import propose
from aevo.policy import document as policies
from aevo.policy.briefs import scores_in
from aevo.policy.case import History
from aevo.policy.constitution import check
from aevo.policy.own import allotment_faults
from aevo.policy.promotion import judge
from aevo.records.change import Change, Edit
from aevo.records.evidence import Evidence
from aevo.records.manifest import Manifest
from aevo.records.policy import AxisBrief, Policy
from aevo.substrate.catalogue import Catalogue
from tests.meta.test_meta_agent import good_draft
from tests.support.builders import Effect, FakeBoard, World, catalogue, start_campaign, write_round


def code(constant: float) -> Change:
    """A curriculum of a worker's own, with one constant."""
    return Change(edits=[Edit(file="train/loop.py", find="x = 1\n", replace=f"x = {constant}\n")])


def coded(root: Path, gain: float = 0.01, **changes: Change) -> tuple[Layout, Evidence]:
    """A first round in which these candidates stand by code; the gains are small."""
    layout = start_campaign(root)
    policy = policies.read(layout, 1)
    policies.write(layout, policy.model_copy(update={"trainings": 2, "stack_up_to": 1}))
    world = World({f"{axis.axis}/m1": Effect(dev=gain) for axis in policy.axes})
    write_round(layout, 1, world)
    for name, change in changes.items():
        path = layout.round(1).candidate(name).manifest
        manifest = read(Manifest, path)
        runs = [run.model_copy(update={"change": change}) for run in manifest.runs]
        words = {"change": change, "runs": runs, "move": "m1", "title": "a curriculum"}
        write_json(path, manifest.model_copy(update=words))
    return layout, collector.collect(layout, 1, FakeBoard(layout, world))


def test_two_codes_in_one_file_are_two_trials_whatever_they_are_called(tmp_path: Path) -> None:
    layout, evidence = coded(tmp_path / "camp", c03=code(0.5), c04=code(0.25))
    found = judge(evidence, policies.read(layout, 1), catalogue(), "maximise_dev")
    moves = {trial.candidate: trial.move for trial in found.trials}
    assert moves["c03"] != moves["c04"] and "m1" not in (moves["c03"], moves["c04"])
    assert moves["c03"] == f"train/loop.py edited #{code(0.5).sha256[:8]}"
    assert {trial.own.title for trial in found.trials if trial.own} == {"a curriculum"}


def proposal(layout: Layout, evidence: Evidence) -> Policy:
    return propose(evidence, policies.read(layout, 1), catalogue()).policy


def test_a_dead_end_of_code_has_its_authors_title(tmp_path: Path) -> None:
    layout, evidence = coded(tmp_path / "camp", gain=-0.3, c06=code(0.5))
    found = judge(evidence, policies.read(layout, 1), catalogue(), "maximise_dev")
    (dead,) = [item for item in found.dead_ends if item.provenance.candidate == "c06"]
    assert dead.move == code(0.5).name and dead.what.startswith("a curriculum: ")
    others = [item.what for item in found.dead_ends if item.provenance.candidate != "c06"]
    assert others and not any("curriculum" in what for what in others)


def test_rules_repeat_undecided_code_exactly_as_it_was_measured(tmp_path: Path) -> None:
    layout, evidence = coded(tmp_path / "camp", c03=code(0.5))
    axis = policies.read(layout, 1).axes[2].axis
    before = policies.read(layout, 1)
    # the round's axes alone, and nothing else is left on this one
    used = {brief.axis for brief in before.axes}
    spent = Catalogue(
        axes=[
            a.model_copy(update={"moves": []}) if a.id == axis else a
            for a in catalogue().axes
            if a.id in used
        ]
    )
    made = propose(evidence, before, spent)
    (again,) = [brief for brief in made.policy.axes if brief.own]
    assert again.axis == axis and again.own[0].change == code(0.5)
    assert again.own[0].source == "r01-c03" and "train/loop.py" in again.knobs
    assert spent.assigned(again)[0].change == code(0.5)
    verdict = check(made, evidence, before, History(spent))
    assert verdict.accepted, verdict


def test_the_same_change_on_every_axis_ends_no_campaign(tmp_path: Path) -> None:
    """All workers turned one key that is none of their axes': it cannot be repeated on each."""
    turned = Change(set={"train.learning_rate": 0.0123})
    names = [f"c{number:02d}" for number in range(1, 8)]
    changes: Any = dict.fromkeys(names, turned)
    layout, evidence = coded(tmp_path / "camp", **changes)
    before = policies.read(layout, 1)
    used = {brief.axis for brief in before.axes}  # and no other axis could come in
    small = Catalogue(axes=[axis for axis in catalogue().axes if axis.id in used])
    made = propose(evidence, before, small)
    again = [brief.own[0].change for brief in made.policy.axes if brief.own]
    assert again in ([], [turned]), "at most one of them"
    verdict = check(made, evidence, before, History(small))
    assert verdict.accepted, verdict


def test_a_model_may_repeat_state_moves_and_allot_trainings(tmp_path: Path) -> None:
    layout, evidence = coded(tmp_path / "camp", c03=code(0.5))
    policy = policies.read(layout, 1)
    question = Question(evidence, policy, catalogue(), propose(evidence, policy, catalogue()))
    measured = policy.axes[2].axis
    draft = good_draft(question) | {"promotions": [], "dead_ends": []}
    draft["reason"] = "Gains are small; [c00] has dev 0.708."
    draft["discoveries"] = [
        {
            "kind": "summary",
            "text": "Little was decided.",
            "figure": "dev 0.708",
            "candidate": "c00",
        }
    ]
    axes = [axis for axis in draft["axes"] if axis["axis"] != measured][: len(policy.axes) - 1]
    repeat = {
        "axis": measured,
        "reason": "undecided",
        "repeat": "r01-c03",
        "trainings": 3,
        "seeds": 3,
    }
    stated = {"id": "halfway", "set": {}, "why": "between two moves of the catalogue"}
    knob = next(a.knobs[0] for a in catalogue().axes if a.id == axes[0]["axis"])
    stated["set"] = {knob: 9}
    axes[0] = {"axis": axes[0]["axis"], "reason": "finer", "own": [stated], "trainings": 1}
    found, verdict = judge_draft(draft | {"axes": [*axes, repeat]}, question, History(catalogue()))
    assert verdict.accepted and found is not None, [r for r in verdict.rules if not r.passed]
    again = next(brief for brief in found.policy.axes if brief.axis == measured)
    assert (again.own[0].change, again.trainings, again.seeds) == (code(0.5), 3, 3)
    first = next(brief for brief in found.policy.axes if brief.axis == axes[0]["axis"])
    assert catalogue().assigned(first)[0].change == Change(set={knob: 9})
    assert "again" not in policies.render(policy) and "halfway" in policies.render(found.policy)
    wrong = {**repeat, "repeat": "r01-c77"}
    _, refused = judge_draft(draft | {"axes": [*axes, wrong]}, question, History(catalogue()))
    assert any("what may be repeated: r01-c03" in rule.text for rule in refused.rules)


def test_a_repeat_is_pooled_with_its_first_trial(tmp_path: Path) -> None:
    layout, evidence = coded(tmp_path / "camp", c03=code(0.5))
    first = judge(evidence, policies.read(layout, 1), catalogue(), "maximise_dev")
    trial = next(trial for trial in first.trials if trial.candidate == "c03")
    assert trial.own is not None and trial.change_sha256 == code(0.5).sha256
    policy = policies.read(layout, 1)
    brief = next(brief for brief in policy.axes if brief.axis == trial.axis)
    # on another standing recipe the edit comes with other lines around it
    moved = Change(edits=[Edit(file="train/loop.py", find="y\nx = 1\n", replace="y\nx = 0.5\n")])
    told = policy.model_copy(
        update={
            "tried": [trial],
            "axes": [
                b.model_copy(update={"own": [trial.own]}) if b == brief else b for b in policy.axes
            ],
        }
    )
    facts = read_rounds(layout, 1)[-1]
    candidates = tuple(
        type(item)(
            **{
                **item.__dict__,
                "plan": item.plan.model_copy(update={"axis": told.axes[2]}),
                "manifest": item.manifest.model_copy(update={"change": moved}),
            }
        )
        if item.plan.id == "c03" and item.manifest
        else item
        for item in facts.candidates
    )
    again = build([type(facts)(**{**facts.__dict__, "policy": told, "candidates": candidates})])
    effect = again.candidates[3].effect
    assert effect is not None and effect.trials == 2


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("bits is at 0.02", ["0.02"]),
        ("it gained +4 points", ["+4"]),
        ("worth 3 % of dev", ["3"]),
        ("set rank to 32 for 60 steps", []),
        ("try `train.lora.alpha=0.5` there", []),
        ("`dev=0.53` is what it had", ["0.53"]),
        ("version v1.2 of r01", []),
    ],
)
def test_scores_in_a_brief_are_seen(text: str, found: list[str]) -> None:
    assert scores_in(text, ["train.lora"]) == found


def test_trainings_are_allotted_within_the_rounds_budget() -> None:
    axes = [
        AxisBrief(axis=name, category="c", brief="", reason="", trainings=count)
        for name, count in (("a", 3), ("b", 1), ("c", None))
    ]
    assert list(allotment_faults(axes, 2)) == []
    assert list(allotment_faults(axes[:1] * 3, 2)) == ["9 trainings are allotted, the round has 6"]
    many = [axes[2].model_copy(update={"seeds": 3})]
    assert list(allotment_faults(many, 2)) == ["c asks for 3 seeds and has 2 trainings"]
