"""The catalogue of axes: reading, orthogonality, choice, and recognising measured moves."""

from pathlib import Path

import pytest

from aevo.errors import RecordError
from aevo.files.documents import write_text
from aevo.records.change import Change, Edit
from aevo.records.policy import AxisBrief, MoveRef, Provenance, StandingChange
from aevo.substrate import catalogue as axes
from aevo.substrate.catalogue import Axis, Catalogue, Move
from tests.support.builders import catalogue

YAML = """
axes:
  - id: rate
    category: schedule
    brief: how fast
    knobs: [train.learning_rate]
    moves:
      - {id: high, set: {train.learning_rate: 0.006}, why: faster}
      - {id: low, set: {train.learning_rate: 0.001}}
  - id: lora
    category: capacity
    brief: how large
    knobs: [train.lora, train/sft.py]
    transfer: true
    moves:
      - {id: wide, set: {train.lora: {rank: 16, alpha: 32}}}
      - {id: code, patch: [{file: train/sft.py, find: "a = 1", replace: "a = 2"}]}
"""


def axis(name: str, category: str, *knobs: str) -> Axis:
    return Axis(id=name, category=category, brief="", knobs=list(knobs))


@pytest.fixture
def loaded(tmp_path: Path) -> Catalogue:
    write_text(tmp_path / "axes.yaml", YAML)
    return axes.load(tmp_path / "axes.yaml")


def standing(change: Change) -> StandingChange:
    return StandingChange(
        id="s", axis="a", change=change, provenance=Provenance(round=1, figure="f")
    )


def test_load_gives_typed_moves(loaded: Catalogue) -> None:
    rate = loaded.axis("rate")
    assert rate is not None
    high = rate.move("high")
    assert high is not None and high.change == Change(set={"train.learning_rate": 0.006})
    assert loaded.categories == ["capacity", "schedule"]
    lora = loaded.axis("lora")
    assert lora is not None and lora.transfer
    brief = lora.brief_for(["wide"], "because")
    assert (brief.transfer, brief.moves, brief.knobs) == (True, ["wide"], lora.knobs)


def test_an_axis_of_one_trainer_is_not_in_the_catalogue_of_others(tmp_path: Path) -> None:
    path = tmp_path / "axes.yaml"
    write_text(path, YAML.replace("    transfer: true\n", "    trainers: [megatron]\n"))
    assert [axis.id for axis in axes.load(path).axes] == ["rate"]
    assert [axis.id for axis in axes.load(path, trainer="peft").axes] == ["rate"]
    assert [axis.id for axis in axes.load(path, trainer="megatron").axes] == ["rate", "lora"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("id: lora", "id: rate", "names twice: rate"),
        ("id: low", "id: high", "names twice: rate/high"),
        ("brief: how fast", "bref: how fast", "bref"),
        ("axes:", "axes: [", "not valid yaml"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    write_text(tmp_path / "axes.yaml", YAML.replace(old, new))
    with pytest.raises(RecordError, match=words):
        axes.load(tmp_path / "axes.yaml")


def test_overlap_knows_the_tree_of_keys() -> None:
    assert axes.overlap("train.lora", "train.lora.rank")
    assert axes.overlap("train.lora.rank", "train.lora")
    assert not axes.overlap("train.lora", "train.lora_rank")
    one = Change(set={"train.lora.rank": 8}, edits=[Edit(file="a.py", find="x", replace="y")])
    other = Change(set={"train.lora": {}}, edits=[Edit(file="a.py", find="z", replace="y")])
    assert axes.conflict(one, other) == ["a.py", "train.lora.rank"]
    assert axes.conflict(one, Change(set={"data.examples": 1})) == []


@pytest.mark.parametrize(("n_axes", "needed"), [(1, 1), (2, 2), (3, 3), (5, 4), (7, 5), (12, 5)])
def test_categories_scale_with_the_number_of_axes(n_axes: int, needed: int) -> None:
    assert axes.categories_needed(n_axes, catalogue()) == needed


def test_select_prefers_order_but_keeps_categories_and_knobs_apart() -> None:
    a1, a2 = axis("a1", "a", "x"), axis("a2", "a", "x.y")
    a3, b1 = axis("a3", "a", "z"), axis("b1", "b", "w")
    assert axes.select([a1, a2, a3, b1], 2, 1) == [a1, a3]
    assert axes.select([a1, a2, a3, b1], 2, 2) == [a1, b1]
    assert axes.select([a1, a2, b1], 3, 1) is None
    assert axes.select([a1, a3], 2, 2) is None


def test_stands_recognises_values_and_replaced_text(loaded: Catalogue) -> None:
    lora = loaded.axis("lora")
    wide, code = (lora.moves if lora else [])[:2]
    leaves = Change(set={"train.lora.rank": 16.0, "train.lora.alpha": 32})
    assert axes.stands(wide, [standing(leaves)])
    assert not axes.stands(wide, [standing(leaves), standing(Change(set={"train.lora.rank": 8}))])
    assert not axes.stands(code, [standing(leaves)])
    assert axes.stands(code, [standing(Change(edits=code.patch))])
    # a promoted change was measured between two forks: whole lines, with context
    measured = Change(edits=[Edit(file="train/sft.py", find="b\na = 1\n", replace="b\na = 3\n")])
    assert axes.stands(code, [standing(measured)])
    elsewhere = Change(edits=[Edit(file="train/sft.py", find="c = 1\n", replace="c = 2\n")])
    assert not axes.stands(code, [standing(elsewhere)])


def test_a_measured_change_is_traced_to_its_move(loaded: Catalogue) -> None:
    rate, lora = loaded.axes
    assert axes.move_of(rate, Change(set={"train.learning_rate": 0.006})) == "high"
    assert axes.move_of(rate, Change(set={"train.learning_rate": 0.5})) is None
    assert axes.move_of(rate, Change()) is None
    # alpha was 32 before, so the measured change does not show it
    assert axes.move_of(lora, Change(set={"train.lora.rank": 16})) == "wide"
    # a measured edit has other context than the patch, but the same file
    measured = Change(edits=[Edit(file="train/sft.py", find="b\na = 1\n", replace="b\na = 2\n")])
    assert axes.move_of(lora, measured) == "code"
    mixed = Change(set={"train.lora.rank": 16}, edits=measured.edits)
    assert axes.move_of(lora, mixed) is None


def test_patches_of_one_file_are_told_apart_by_the_lines_they_put_in() -> None:
    def patched(value: int, context: str = "") -> Edit:
        find, new = f"{context}a = 1\n", f"{context}a = 1\n  b = {value}\n"
        return Edit(file="data/mixture.py", find=find, replace=new)

    moves = [Move(id=f"b{value}", patch=[patched(value)]) for value in (2, 8)]
    found = Axis(id="x", category="c", brief="", moves=moves)
    for value in (2, 8):
        measured = Change(edits=[patched(value, "before\n")])
        assert axes.move_of(found, measured) == f"b{value}"
    assert axes.move_of(found, Change(edits=[patched(4)])) is None


def test_a_patch_that_quotes_a_part_of_a_line_is_recognised() -> None:
    moves = [
        Move(id=name, patch=[Edit(file="data/filters.py", find="MIDDLE = 0.5 ", replace=new)])
        for name, new in (("hardest", "MIDDLE = 0.75 "), ("easiest", "MIDDLE = 0.25 "))
    ]
    found = Axis(id="x", category="c", brief="", moves=moves)
    for name, value in (("hardest", "0.75"), ("easiest", "0.25")):
        old, new = "MIDDLE = 0.5  # of the ranks\n", f"MIDDLE = {value}  # of the ranks\n"
        measured = Change(edits=[Edit(file="data/filters.py", find=old, replace=new)])
        assert axes.move_of(found, measured) == name


def test_smallest_move_that_explains_is_meant() -> None:
    both = Move(id="both", set={"a": 1, "b": 2})
    one = Move(id="one", set={"a": 1})
    found = Axis(id="x", category="c", brief="", moves=[both, one])
    assert axes.move_of(found, Change(set={"a": 1})) == "one"


def stack(*parts: tuple[str, str]) -> AxisBrief:
    refs = [MoveRef(axis=name, move=move) for name, move in parts]
    return AxisBrief(axis="stack", category="stack", brief="", combines=refs, reason="")


def test_a_stack_is_an_axis_whose_one_move_is_all_of_its_moves(loaded: Catalogue) -> None:
    brief = stack(("rate", "high"), ("lora", "code"))
    (whole,) = loaded.assigned(brief)
    assert whole.id == "high+code"
    assert whole.set == {"train.learning_rate": 0.006} and len(whole.patch) == 1
    extended = loaded.with_briefs([brief, loaded.axes[0].brief_for(["low"], "")])
    assert [axis.id for axis in extended.axes] == ["rate", "lora", "stack"]
    assert extended.axes[-1].moves == [whole]


def test_a_stack_of_what_the_catalogue_does_not_have_is_none(loaded: Catalogue) -> None:
    unknown = stack(("rate", "high"), ("lora", "none"))
    assert loaded.assigned(unknown) == [] and loaded.with_briefs([unknown]) == loaded


def test_other_briefs_give_the_moves_they_name(loaded: Catalogue) -> None:
    brief = loaded.axes[0].brief_for(["low"], "")
    assert [move.id for move in loaded.assigned(brief)] == ["low"]


def test_a_measured_change_is_the_whole_stack_or_not(loaded: Catalogue) -> None:
    moves = loaded.moves(stack(("rate", "high"), ("lora", "wide")).combines)
    assert moves is not None
    # alpha was 32 before, so the measured change does not show it
    both = {"train.learning_rate": 0.006, "train.lora.rank": 16}
    assert axes.has_all(Change(set=both), moves)
    assert not axes.has_all(Change(set={"train.learning_rate": 0.006}), moves)
    assert not axes.has_all(Change(set={**both, "train.steps": 5}), moves)
    assert not axes.has_all(Change(set={**both, "train.lora.rank": 64}), moves)


def test_a_catalogues_patch_with_an_edited_constant_is_another_change() -> None:
    patch = Edit(file="train/fit.py", find="rate = ", replace="decay = 0.2\nrate = ")
    wsd = Axis(id="s", category="c", brief="", moves=[Move(id="wsd", patch=[patch])])
    measured = Edit(file="train/fit.py", find="rate = 1\n", replace="decay = 0.2\nrate = 1\n")
    assert axes.move_of(wsd, Change(edits=[measured])) == "wsd"
    edited = measured.model_copy(update={"replace": "decay = 0.25\nrate = 1\n"})
    assert axes.move_of(wsd, Change(edits=[edited])) is None
    more = measured.model_copy(update={"replace": "decay = 0.2\nrate = 2\n"})
    assert axes.move_of(wsd, Change(edits=[more])) is None
