"""The evidence: its figures, its verdict over a campaign, its verification."""

import subprocess
import sys
from pathlib import Path

import pytest

from aevo.errors import ConfigError, RecordError
from aevo.evidence.__main__ import main
from aevo.evidence.build import build
from aevo.evidence.inputs import read_rounds
from aevo.evidence.verify import verify
from aevo.files.documents import read, write_json, write_text, write_yaml
from aevo.files.paths import Layout
from aevo.policy import document as policies
from aevo.records.change import Change, Edit
from aevo.records.evidence import Evidence
from aevo.records.leaderboard import Leaderboard
from aevo.records.manifest import Manifest
from tests.support.builders import ITEMS, SEEDS, SINGLE, files, paper_world, play, start_campaign


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Four rounds of the paper's story, of claims alone; tests that spoil files copy it."""
    layout = start_campaign(tmp_path_factory.mktemp("evidence") / "camp", settings=SINGLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aevo.policy.promotion._build_upon", lambda *_: [])
        for number in range(1, 5):
            play(layout, number, paper_world())
    return layout


@pytest.fixture
def spoilt(campaign: Layout, tmp_path: Path) -> Layout:
    for name, content in files(campaign.root).items():
        path = tmp_path / "camp" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return Layout(tmp_path / "camp")


def of(campaign: Layout, number: int) -> Evidence:
    return read(Evidence, campaign.round(number).evidence)


def test_comparison_by_items(campaign: Layout) -> None:
    summary = of(campaign, 1).candidates[1]
    assert (summary.axis, summary.move, summary.category) == ("learning_rate", "m1", "schedule")
    compared = summary.comparison
    assert compared is not None
    assert (compared.n, compared.won, compared.lost) == (6 * ITEMS, 24, 0)
    assert compared.gain == pytest.approx(0.04)
    assert compared.low < 0.04 < compared.high
    assert compared.p == pytest.approx(2 * 0.5**24, rel=1e-4)
    assert compared.p_adjusted == pytest.approx(6 * compared.p, rel=1e-4)  # clip is more certain
    assert compared.beyond_band
    assert compared.domains == pytest.approx(dict.fromkeys(summary.domains, 0.04))
    assert "+0.0400 over the anchor on 600 items" in summary.text


def test_seed_band_grows_with_the_anchors_of_one_recipe(campaign: Layout) -> None:
    found = [of(campaign, number).calibration for number in range(1, 5)]
    assert [(c.seed_runs, c.seed_dof) for c in found] == [(2, 1), (4, 2), (6, 3), (8, 5)]
    spread = 0.03 / 6 / 2**0.5  # two seeds that differ by three items of one domain
    assert found[0].seed_sd == pytest.approx(spread, abs=1e-6)
    # rounds 3 and 4 share a recipe: one group of four, whose mean costs one degree, not two
    pooled = (2 * spread**2 + 4 * (0.03 / 6 / 2) ** 2) / 5
    assert found[3].seed_sd == pytest.approx(pooled**0.5, abs=1e-6)


def test_verdicts_follow_the_papers_story(campaign: Layout) -> None:
    verdicts = [of(campaign, number).calibration.verdict for number in range(1, 5)]
    assert verdicts == ["evidence", "evidence", "not_evidence", "not_evidence"]
    third = of(campaign, 3).calibration
    assert third.leverage["equation"] == pytest.approx((0.0667 + 0.04) / 2, abs=1e-3)
    assert max(third.leverage, key=lambda name: third.leverage[name]) == "equation"
    assert third.dev_gain_of_round == pytest.approx(0.0667, abs=1e-3)
    assert third.lb_gain_of_round == pytest.approx(0.01)
    assert [of(campaign, n).calibration.plateau_rounds for n in range(1, 5)] == [0, 0, 1, 2]
    assert len(third.pairs) == 15  # both of the anchor's seeds are one


def test_patterns_and_surprises_rest_on_figures(campaign: Layout) -> None:
    third = of(campaign, 3)
    assert third.patterns.weak_domain == "equation"
    assert third.patterns.domain_movers["equation"] == "c01 +0.400"
    surprised = {item.candidate for item in third.surprises}
    assert {"c01", "c02"} <= surprised
    fourth = [item.text for item in of(campaign, 4).surprises]
    assert fourth == [
        "The leaderboard rose while dev did not.",
        "equation is damaged: it fell beyond chance on its own items.",
    ]
    assert all(item.passed for item in third.audit)


def test_same_records_same_bytes(campaign: Layout) -> None:
    built = build(read_rounds(campaign, 3))
    assert built.model_dump_json() == of(campaign, 3).model_dump_json()
    assert "20" + "26-" not in built.model_dump_json()  # no dates


def test_a_false_claim_is_reported_and_not_used(spoilt: Layout) -> None:
    path = spoilt.round(4).candidate("c03").manifest
    manifest = read(Manifest, path)
    claims = manifest.claims.model_copy(update={"claimed_dev": 0.99, "findings": ["best ever"]})
    write_json(path, manifest.model_copy(update={"claims": claims}))
    built = build(read_rounds(spoilt, 4))
    assert built.candidates[3].dev == of(spoilt, 4).candidates[3].dev
    assert any("claimed 0.9900" in item.figure for item in built.surprises)
    assert built.candidates[3].findings == ["best ever"]


@pytest.mark.parametrize(
    ("field", "value", "check"),
    [
        ("substrate_sha256", "0" * 64, "Every candidate ran on the pinned substrate"),
        ("change", {"set": {"data.examples": 9}, "edits": []}, "Each explorer kept to its axis"),
    ],
)
def test_the_audit_sees(spoilt: Layout, field: str, value: object, check: str) -> None:
    path = spoilt.round(4).candidate("c03").manifest
    data = read(Manifest, path).model_dump()
    write_json(path, Manifest.model_validate(data | {field: value}))
    failed = [item for item in build(read_rounds(spoilt, 4)).audit if not item.passed]
    assert [item.check for item in failed] == [check]
    assert "c03" in failed[0].text


def test_the_audit_sees_a_policy_that_was_swapped(spoilt: Layout) -> None:
    rules = policies.read(spoilt, 4)
    policies.write(spoilt, rules.model_copy(update={"mode_reason": "because"}))
    failed = [item for item in build(read_rounds(spoilt, 4)).audit if not item.passed]
    assert [item.check for item in failed] == ["The plan was made from this round's policy"]


def test_the_audit_sees_scores_and_seeds_that_disagree(spoilt: Layout) -> None:
    path = spoilt.round(4).candidate("c00").manifest
    manifest = read(Manifest, path)
    assert manifest.selected is not None
    runs = [run.model_copy(update={"seed": run.seed + 5}) for run in manifest.runs]
    selected = manifest.selected.model_copy(update={"dev": 0.9})
    write_json(path, manifest.model_copy(update={"selected": selected, "runs": runs}))
    failed = {
        item.check: item.text for item in build(read_rounds(spoilt, 4)).audit if not item.passed
    }
    assert f"c00 run 1 used seed {SEEDS[0] + 5}" in failed["Training seeds were those of the plan"]
    assert "c00 states dev 0.9" in failed["Scores agree with the per-item predictions"]


def test_items_of_its_own_are_seen_and_left_out(spoilt: Layout) -> None:
    path = spoilt.round(4).candidate("c02").run(1).predictions("step-000050")
    lines = path.read_text().splitlines(keepends=True)
    write_text(path, "".join(lines[:-50]))
    built = build(read_rounds(spoilt, 4))
    compared = built.candidates[2].comparison
    assert compared is not None and compared.n == 6 * ITEMS - 50
    failed = {item.check for item in built.audit if not item.passed}
    assert "All candidates were scored on the same items" in failed


def test_verify_passes_on_an_untouched_campaign(campaign: Layout) -> None:
    assert verify(campaign) == []


def test_verify_names_every_figure_that_does_not_follow(spoilt: Layout) -> None:
    folder = spoilt.round(2)
    evidence = read(Evidence, folder.evidence)
    calibration = evidence.calibration.model_copy(update={"slope": 0.99})
    write_json(folder.evidence, evidence.model_copy(update={"calibration": calibration}))
    board = read(Leaderboard, spoilt.round(4).leaderboard)
    raised = board.submissions[-1].model_copy(update={"score": 0.91})
    submissions = [*board.submissions[:-1], raised]
    write_json(spoilt.round(4).leaderboard, board.model_copy(update={"submissions": submissions}))
    write_text(spoilt.round(1).evidence_text, "# All is well\n")
    lines = verify(spoilt)
    assert "round 1: evidence.md is not the rendering of evidence.json" in lines
    assert any(line.startswith("round 2: calibration.slope: recorded 0.99") for line in lines)
    place = f"round 4: candidates[{int(raised.candidate[1:])}].lb"
    assert f"{place}: recorded {board.submissions[-1].score}, recomputed 0.91" in lines
    assert not any(line.startswith("round 3") for line in lines)


def test_verify_recomputes_the_posterior(spoilt: Layout) -> None:
    path = spoilt.policy(3)
    policy = policies.read(spoilt, 3)
    doubled = policy.beliefs[0].model_copy(update={"expected": 2 * policy.beliefs[0].expected})
    spoilt_beliefs = [doubled, *policy.beliefs[1:]]
    write_yaml(path, policy.model_copy(update={"beliefs": spoilt_beliefs}))
    assert any(line.startswith("round 2: policy.beliefs[0].expected") for line in verify(spoilt))


def test_a_moved_campaign_still_verifies(spoilt: Layout, tmp_path: Path) -> None:
    spoilt.root.rename(tmp_path / "elsewhere")
    assert verify(Layout(tmp_path / "elsewhere")) == []


@pytest.mark.long(4)
def test_command_line_exit_codes(spoilt: Layout) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "aevo.evidence", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    good = run("verify", str(spoilt.root))
    assert (good.returncode, good.stderr) == (0, "")
    path = spoilt.round(1).candidate("c01").manifest
    path.unlink()
    bad = run("verify", str(spoilt.root))
    assert bad.returncode == 3
    assert "round 1: candidates[1].status: recorded 'ok', recomputed 'missing'" in bad.stdout
    assert bad.stderr.count("\n") == 1 and bad.stderr.startswith("error: ")


def test_verify_needs_a_campaign(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no round with evidence"):
        verify(Layout(tmp_path))
    with pytest.raises(ConfigError, match="verify CAMPAIGN_FOLDER"):
        main(["check"])


def test_code_that_lies_where_it_must_is_not_off_axis(spoilt: Layout) -> None:
    """A new schedule needs a file of its own and a check of its key."""
    path = spoilt.round(1).candidate("c01").manifest
    manifest = read(Manifest, path)
    edits = [Edit(file=name, find="", replace="x\n") for name in ("train/wsd.py", "data/recipe.py")]

    def audited(change: Change) -> str:
        write_json(path, manifest.model_copy(update={"change": change}))
        found = build(read_rounds(spoilt, 1))
        return next(item.text for item in found.audit if item.check.endswith("kept to its axis"))

    assert audited(manifest.change.model_copy(update={"edits": edits})) == "Yes."
    both = {**manifest.change.set, "train.lora.rank": 3}
    assert "c01 also touched train.lora.rank" in audited(Change(set=both))
