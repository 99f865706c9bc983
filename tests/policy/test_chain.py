"""The chain of digests: a record edited after its round is named, a meant edit is kept."""

from pathlib import Path

import pytest

from aevo.errors import RecordError
from aevo.files.documents import read
from aevo.files.paths import Layout
from aevo.policy import __main__ as command
from aevo.policy import chain
from aevo.records.chain import Link
from tests.support.builders import World, play, start_campaign


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = start_campaign(tmp_path / "runs" / "x")
    for number in (1, 2):
        play(found, number, World({}))
    return found


def test_every_record_of_a_round_is_in_its_link(layout: Layout) -> None:
    assert chain.broken(layout) == []
    chain.check(layout)
    link = read(Link, chain.link_path(layout, 1))
    for name in link.files:
        path = layout.root / name
        before = path.read_bytes()
        for edit in (before + b" ", None):
            if edit is None:
                path.unlink()
            else:
                path.write_bytes(edit)
            assert any(name in line for line in chain.broken(layout)), name
            with pytest.raises(RecordError, match="amend"):
                chain.check(layout)
        path.write_bytes(before)
    kinds = {Path(name).name for name in link.files}
    assert {
        "plan.yaml",
        "evidence.json",
        "manifest.json",
        "round-01.yaml",
        "round-02.yaml",
        "leaderboard.json",
        "step-000050.predictions.jsonl",
        "campaign.yaml",
    } <= kinds


def test_a_link_that_was_written_anew_breaks_the_next(layout: Layout) -> None:
    path = layout.round(1).evidence
    path.write_bytes(path.read_bytes() + b" ")
    chain.link_path(layout, 1).unlink()
    chain.seal(layout, 1)
    assert chain.broken(layout) == ["round 2: the link of the round before is another one"]


def test_an_edit_that_is_meant_is_kept_with_its_reason(layout: Layout) -> None:
    path = layout.policy(3)
    arguments = ["amend", str(layout.root), "3", "--reason", "a typo\x1b[2J"]
    with pytest.raises(RecordError, match="as it was"):
        command.main(arguments)
    path.write_text(path.read_text() + "# mine\n")
    with pytest.raises(RecordError):
        chain.check(layout)
    command.main(arguments)
    chain.check(layout)
    made = read(Link, chain.link_path(layout, 2)).amendments
    assert [(item.file, item.reason) for item in made] == [("policy/round-03.yaml", "a typo")]
    with pytest.raises(RecordError, match="planned"):
        chain.amend(layout, 2, "too late")
    with pytest.raises(RecordError, match="no finished round"):
        chain.amend(layout, 1, "too early")


def test_old_campaigns_have_no_chain(layout: Layout) -> None:
    for number in (1, 2):
        chain.link_path(layout, number).unlink()
    chain.check(layout)
