"""The meta step: the whole trajectory, its files, crashes, refusals, and single decisions."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from aevo.errors import ConfigError, ConstitutionError, JobError, RecordError, SubstrateError
from aevo.evidence.collector import collect
from aevo.files.documents import read, write_text, write_yaml
from aevo.files.paths import Layout
from aevo.meta import step
from aevo.meta.rules import propose
from aevo.policy import discoveries
from aevo.policy import document as policies
from aevo.policy.constitution import RULES
from aevo.records.evidence import Evidence
from aevo.records.policy import Policy
from aevo.records.proposal import Proposal, Verdict
from aevo.substrate.catalogue import Axis, Catalogue, Move, shared_knobs
from tests.evidence.test_collector import killed_everywhere
from tests.support.builders import (
    SINGLE,
    Effect,
    FakeBoard,
    World,
    catalogue,
    files,
    paper_world,
    play,
    start_campaign,
    write_round,
)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """The paper's trajectory, of what is claimed alone."""
    layout = start_campaign(tmp_path_factory.mktemp("meta") / "camp", settings=SINGLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aevo.policy.promotion._build_upon", lambda *_: [])
        for number in range(1, 5):
            play(layout, number, paper_world())
    return layout


def play_to_evidence(root: Path, world: World) -> Layout:
    layout = start_campaign(root, settings=SINGLE)
    write_round(layout, 1, world)
    collect(layout, 1, FakeBoard(layout, world))
    return layout


def proposed(root: Path, world: World) -> Policy:
    """The policy after one round in that world, all of whose candidates are submitted."""
    play(layout := start_campaign(root, settings=SINGLE), 1, world, quota=9)
    return policies.read(layout, 2)


def dead_ends(policy: Policy) -> dict[str, str]:
    return {item.id: item.what for item in policy.dont_waste_budget_on}


@pytest.mark.long(3)
def test_the_trajectory_is_the_papers(campaign: Layout) -> None:
    found = [policies.read(campaign, number) for number in range(1, 6)]
    assert [policy.mode for policy in found] == [
        "recipe_stabilisation",
        "stack_and_calibrate",
        "proxy_exploitation",
        "transfer",
        "transfer",
    ]
    assert [policy.objective for policy in found] == ["maximise_dev"] * 3 + [
        "maximise_transfer"
    ] * 2
    promoted = [[item.axis for item in policy.standing] for policy in found]
    assert promoted[1:] == [
        ["learning_rate"],
        ["learning_rate", "which_checkpoint"],
        ["learning_rate", "which_checkpoint"],  # dev +0.067 and +0.060 are not promoted
        ["learning_rate", "which_checkpoint", "rebalance"],  # dev -0.022, LB +0.02 is
    ]
    assert "equation is its visibly weak domain" in found[2].mode_reason


def test_every_policy_keeps_the_shape_of_a_round(campaign: Layout) -> None:
    for number in range(1, 6):
        axes = policies.read(campaign, number).axes
        assert len(axes) == len({axis.axis for axis in axes}) == 7
        assert len({axis.category for axis in axes}) >= 5
        for index, one in enumerate(axes):
            assert not any(shared_knobs(one.knobs, other.knobs) for other in axes[index + 1 :])


def test_proxy_exploitation_draws_axes_to_the_weak_domain(campaign: Layout) -> None:
    axes = [axis.axis for axis in policies.read(campaign, 3).axes]
    assert {"mix_equation", "trace_equation"} <= set(axes[:2])


def test_transfer_asks_for_transfer_axes_and_weighs_down_the_leveraged_domain(
    campaign: Layout,
) -> None:
    policy = policies.read(campaign, 4)
    assert {axis.axis for axis in policy.axes if axis.transfer} == {"rebalance", "reweigh"}
    assert {"mix_equation", "trace_equation"}.isdisjoint(axis.axis for axis in policy.axes)
    assert policy.selection.criterion == "reweighted"
    assert policy.selection.weights["equation"] == min(policy.selection.weights.values()) == 0.25
    assert "equation won" in policy.selection.provenance.figure


def test_dead_ends_only_grow_and_cite_their_round(campaign: Layout) -> None:
    registries = [policies.read(campaign, n).dont_waste_budget_on for n in range(1, 6)]
    for before, after in pairwise(registries):
        assert after[: len(before)] == before and len(after) >= len(before)
    last = {item.id: item for item in registries[-1]}
    assert last["clip/m1"].what == "at most -0.029 by dev, below the promotion threshold"
    assert last["clip/m1"].provenance.round == 1
    assert last["mix_equation/m2"].what == "raises dev only; the leaderboard does not follow"
    assert "dev +0.0667, LB +0.000" in last["mix_equation/m2"].provenance.figure


def test_noise_rule_is_recalibrated_with_provenance(campaign: Layout) -> None:
    rule = policies.read(campaign, 5).noise
    assert rule.promotion_threshold == rule.prior == 0.01  # the measured band is smaller
    assert rule.seed_runs == 8
    assert rule.provenance.round == 4 and "seed sd 0.0032" in rule.provenance.figure


def test_discoveries_are_consolidated_once_each(campaign: Layout) -> None:
    entries = discoveries.read(campaign)
    assert len({entry.id for entry in entries}) == len(entries)
    kinds = {entry.kind for entry in entries}
    assert kinds == {"promotion", "dead_end", "divergence", "mode", "rotation", "summary"}
    turning = [entry for entry in entries if entry.kind == "divergence"]
    assert [entry.round for entry in turning] == [3]
    assert turning[0].text.startswith("dev is no longer evidence of the leaderboard: best dev rose")
    assert campaign.discoveries_text.read_text() == discoveries.render(entries)
    before = files(campaign.root)
    discoveries.append(campaign, entries)
    assert files(campaign.root) == before


def test_a_torn_line_of_the_log_is_repaired(tmp_path: Path) -> None:
    layout = play_to_evidence(tmp_path / "camp", paper_world())
    step.main([str(layout.root), "1"])
    whole = layout.discoveries.read_bytes()
    layout.discoveries.write_bytes(whole[:-20])
    discoveries.append(layout, read(Proposal, layout.round(1).meta / "proposal.json").discoveries)
    assert layout.discoveries.read_bytes() == whole


@pytest.mark.long(4)
def test_killed_at_every_write_it_gives_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = play_to_evidence(tmp_path / "camp", paper_world())
    for folder in layout.round(1).root.glob("c[0-9]*"):
        shutil.rmtree(folder)  # the meta step reads none of it
    whole = Layout(tmp_path / "whole")
    shutil.copytree(layout.root, whole.root)
    step.main([str(whole.root), "1"])
    expected = files(whole.root)

    def check(tried: Layout) -> None:
        assert files(tried.root) == expected

    kills = killed_everywhere(
        monkeypatch, layout, lambda tried: step.main([str(tried.root), "1"]), check
    )
    assert kills >= 15


def test_proposal_and_verdict_stay_on_record(campaign: Layout) -> None:
    folder = campaign.round(3).meta
    verdict = read(Verdict, folder / "verdict.json")
    assert verdict.accepted and [item.rule for item in verdict.rules] == list(RULES)
    assert read(Proposal, folder / "proposal.json").policy == policies.read(campaign, 4)


def test_a_rejected_proposal_writes_no_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = play_to_evidence(tmp_path / "camp", paper_world())

    def greedy(evidence: Evidence, policy: Policy, known: Catalogue) -> Proposal:
        good = propose(evidence, policy, known)
        bad = good.policy.model_copy(
            update={
                "dont_waste_budget_on": [],
                "axes": good.policy.axes[1:],
                "noise": good.policy.noise.model_copy(update={"promotion_threshold": 0.001}),
            }
        )
        return good.model_copy(update={"policy": bad})

    monkeypatch.setattr(step, "propose", greedy)
    with pytest.raises(ConstitutionError, match=r"breaks R12: 6 axes.*R20: .*below the prior") as e:
        step.main([str(layout.root), "1"])
    assert e.value.code == 6
    assert not layout.policy(2).exists() and not layout.discoveries.exists()
    assert not read(Verdict, layout.round(1).meta / "verdict.json").accepted
    monkeypatch.undo()
    step.main([str(layout.root), "1"])
    assert policies.read(layout, 2).round == 2


def test_what_the_user_can_mend_is_named(tmp_path: Path) -> None:
    layout = start_campaign(tmp_path / "camp", settings=SINGLE)
    with pytest.raises(
        JobError, match=r"evidence\.json is missing.*python -m aevo\.round \+round=1"
    ):
        step.main([str(layout.root), "1"])
    with pytest.raises(ConfigError, match="CAMPAIGN_FOLDER ROUND"):
        step.main([])
    write_text(layout.round(1).evidence, "{}")
    with pytest.raises(RecordError, match="not a valid Evidence"):
        step.main([str(layout.root), "1"])
    write_text(tmp_path / "constitution.txt", "R1 anything goes\n")
    with pytest.raises(SubstrateError, match="the campaign pinned"):
        step.main([str(layout.root), "1"])


@pytest.mark.usefixtures("claims_only")
def test_gains_that_conflict_do_not_stack(tmp_path: Path) -> None:
    """Two winners on keys inside one another: the stronger stands, the other waits."""
    layout = start_campaign(tmp_path / "camp", settings=SINGLE)
    world = World({"clip/m1": Effect(dev=0.05, lb=0.03), "rank/m1": Effect(dev=0.04, lb=0.03)})
    write_round(layout, 1, world)
    evidence = collect(layout, 1, FakeBoard(layout, world))
    single = policies.read(layout, 1)
    alone = propose(evidence, single, catalogue()).policy
    assert [item.axis for item in alone.standing] == ["clip"]
    second = next(trial for trial in alone.tried if trial.candidate == "c03")
    assert second.outcome == "undecided" and "on top of r01-c02" in second.reason
    noise = single.noise.model_copy(update={"promotions_per_round": 2})
    double = single.model_copy(update={"noise": noise})
    both = propose(evidence, double, catalogue()).policy
    assert [item.axis for item in both.standing] == ["clip", "rank"]
    change = {"change": evidence.candidates[2].change}
    runs = [run.model_copy(update=change) for run in evidence.candidates[3].runs]
    loser = evidence.candidates[3].model_copy(update={**change, "runs": runs})
    clash = evidence.model_copy(
        update={"candidates": [*evidence.candidates[:3], loser, *evidence.candidates[4:]]}
    )
    one = propose(clash, double, catalogue()).policy
    assert [item.axis for item in one.standing] == ["clip"]
    waiting = [trial for trial in one.tried if trial.candidate == "c03"]
    assert waiting[0].outcome == "undecided"
    assert "also touches train.optimizer.clip" in waiting[0].reason


def test_a_dev_gain_that_costs_leaderboard_is_a_dead_end(tmp_path: Path) -> None:
    policy = proposed(tmp_path / "camp", World({"rank/m1": Effect(dev=0.05, lb=-0.03)}))
    assert policy.standing == []
    assert dead_ends(policy)["rank/m1"] == "the leaderboard fell"


def test_a_leaderboard_gain_alone_promotes(tmp_path: Path) -> None:
    """Dev and leaderboard contradict each other, so the leaderboard decides."""
    policy = proposed(tmp_path / "camp", World({"rank/m1": Effect(dev=-0.04, lb=0.06)}))
    assert [item.axis for item in policy.standing] == ["rank"]
    assert "by leaderboard" in policy.standing[0].provenance.figure
    assert "LB +0.060" in policy.standing[0].provenance.figure


def test_a_dev_gain_that_the_leaderboard_contradicts_promotes_nothing(tmp_path: Path) -> None:
    policy = proposed(tmp_path / "camp", World({"rank/m1": Effect(dev=0.05, lb=0.0)}))
    assert policy.standing == []


@pytest.mark.long(2)
@pytest.mark.usefixtures("claims_only")
def test_a_second_trial_promotes_where_the_first_could_not_decide(tmp_path: Path) -> None:
    world = World({"rank/m1": Effect(dev=0.02, lb=0.01)})
    layout = start_campaign(tmp_path / "camp", settings=SINGLE)
    play(layout, 1, world, quota=8)
    second = policies.read(layout, 2)
    assert second.standing == []
    rank = next(axis for axis in second.axes if axis.axis == "rank")
    assert rank.moves == ["m1"] and "replicates m1, undecided in round" in rank.reason
    play(layout, 2, world, quota=8)
    evidence = read(Evidence, layout.round(2).evidence)
    again = next(item for item in evidence.candidates if item.axis == "rank")
    first = next(
        item for item in read(Evidence, layout.round(1).evidence).candidates if item.axis == "rank"
    )
    assert again.effect is not None and first.effect is not None
    assert (first.effect.trials, again.effect.trials) == (1, 2)
    assert again.effect.p < first.effect.p and again.effect.se < first.effect.se
    assert [item.axis for item in policies.read(layout, 3).standing] == ["rank"]


@pytest.mark.usefixtures("claims_only")
def test_earlier_leaderboard_scores_alone_promote_nothing(tmp_path: Path) -> None:
    """They were on top of another standing recipe; this round did not submit the change."""
    world = World({"rank/m1": Effect(dev=0.02, lb=0.01)})
    layout = start_campaign(tmp_path / "camp", settings=SINGLE)
    play(layout, 1, world, quota=8)
    write_round(layout, 2, world)
    collect(layout, 2, FakeBoard(layout, world, quota=1))  # the anchor alone
    rank = next(
        item for item in read(Evidence, layout.round(2).evidence).candidates if item.axis == "rank"
    )
    assert rank.lb is None and rank.external is None
    assert rank.effect is not None and rank.effect.trials == 2


@pytest.mark.usefixtures("claims_only")
def test_earlier_leaderboard_scores_do_not_overrule_this_rounds_dev(tmp_path: Path) -> None:
    layout = start_campaign(tmp_path / "camp", settings=SINGLE)
    play(layout, 1, World({"rank/m1": Effect(dev=0.02, lb=0.01)}), quota=8)
    fallen = World({"rank/m1": Effect(dev=-0.12, lb=-0.12)})
    write_round(layout, 2, fallen)
    collect(layout, 2, FakeBoard(layout, fallen, quota=1))  # the anchor alone
    evidence = read(Evidence, layout.round(2).evidence)
    rank = next(item for item in evidence.candidates if item.axis == "rank")
    assert rank.effect is not None and rank.effect.trials == 2
    assert rank.effect.basis == "dev" and rank.effect.gain < 0


def test_a_change_that_does_not_stack_leaves_again(tmp_path: Path) -> None:
    """It wins as an explorer; as part of the standing recipe the anchor falls."""
    world = World({"rank/m1": Effect(dev=0.05, lb=0.04)})
    layout = start_campaign(tmp_path / "camp", settings=SINGLE)
    play(layout, 1, world, quota=8)
    assert [item.axis for item in policies.read(layout, 2).standing] == ["rank"]
    play(layout, 2, World({"rank/m1": Effect(dev=-0.06, lb=-0.06)}), quota=8)
    held = read(Evidence, layout.round(2).evidence).patterns.stacked
    assert held is not None and held.verdict == "reversed" and held.step < 0 < held.expected
    third = policies.read(layout, 3)
    assert held.changes == ["r01-c03-m1"]
    assert "r01-c03-m1" not in {item.id for item in third.standing}
    assert dead_ends(third)["rank/m1"] == "does not stack: the anchor fell with it"
    log = [item for item in discoveries.read(layout) if item.kind == "demotion"]
    assert [item.round for item in log] == [2]
    assert "the anchor moved -0." in log[0].provenance.figure


def test_a_failed_training_is_no_verdict_but_divergence_is(tmp_path: Path) -> None:
    layout = play_to_evidence(tmp_path / "camp", paper_world())
    evidence = read(Evidence, layout.round(1).evidence)

    def failed(index: int, failure: str) -> Evidence:
        summary = evidence.candidates[index]
        runs = [summary.runs[0].model_copy(update={"gain": None, "dev": None, "failure": failure})]
        spoilt = summary.model_copy(
            update={
                "status": "failed",
                "dev": None,
                "comparison": None,
                "runs": runs,
                "lb": None,
                "lb_gain": None,
            }
        )
        rest = list(evidence.candidates)
        rest[index] = spoilt
        return evidence.model_copy(update={"candidates": rest})

    lost = propose(failed(3, "run 1: killed"), policies.read(layout, 1), catalogue()).policy
    assert "rank/m1" not in dead_ends(lost)
    assert [t.outcome for t in lost.tried if t.axis == "rank"] == ["failed"]
    diverged = propose(failed(3, "run 1: diverged"), policies.read(layout, 1), catalogue()).policy
    assert dead_ends(diverged)["rank/m1"] == "training diverged"


def test_noise_beyond_the_prior_raises_the_threshold(tmp_path: Path) -> None:
    layout = play_to_evidence(tmp_path / "camp", paper_world())
    evidence = read(Evidence, layout.round(1).evidence)
    calibration = evidence.calibration.model_copy(update={"seed_sd": 0.02, "dev_band": 0.044})
    noisy = evidence.model_copy(update={"calibration": calibration})
    found = propose(noisy, policies.read(layout, 1), catalogue())
    assert found.policy.noise.promotion_threshold == 0.022  # as much larger as the band
    entry = next(item for item in found.discoveries if item.kind == "noise")
    assert entry.text == "The promotion threshold is 0.0220 (was 0.0100)."
    # what was promoted in this round was judged by the rule of this round, not by the next one's
    assert [item.axis for item in found.policy.standing] == ["learning_rate"]


def test_a_dry_catalogue_replicates_and_says_so(tmp_path: Path) -> None:
    layout = play_to_evidence(tmp_path / "camp", paper_world())
    dry = Catalogue(
        axes=[a.model_copy(update={"moves": a.moves[:1]}) for a in catalogue().axes[:7]]
    )
    evidence = read(Evidence, layout.round(1).evidence)
    found = propose(evidence, policies.read(layout, 1), dry).policy
    assert len(found.axes) == 7
    by_name = {axis.axis: axis for axis in found.axes}
    assert by_name["mask"].moves == ["m1"] and "replicates m1, undecided" in by_name["mask"].reason
    assert by_name["rank"].moves == [] and "catalogue exhausted" in by_name["rank"].reason
    assert found.retired == []


def test_an_exhausted_axis_retires_where_others_can_step_in(tmp_path: Path) -> None:
    layout = play_to_evidence(tmp_path / "camp", paper_world())
    short = Catalogue(
        axes=[
            a.model_copy(update={"moves": a.moves[:1]}) if a.id == "rank" else a
            for a in catalogue().axes
        ]
    )
    evidence = read(Evidence, layout.round(1).evidence)
    found = propose(evidence, policies.read(layout, 1), short).policy
    assert [item.axis for item in found.retired] == ["rank"]
    assert "rank" not in [axis.axis for axis in found.axes]


@pytest.mark.parametrize("n_axes", [2, 3])
def test_small_rounds_close_too(tmp_path: Path, n_axes: int) -> None:
    layout = start_campaign(tmp_path / "camp", n_axes, settings=SINGLE)
    for number in (1, 2, 3):
        play(layout, number, paper_world())
        assert len(policies.read(layout, number + 1).axes) == n_axes


def test_a_round_without_an_anchor_decides_nothing(tmp_path: Path) -> None:
    layout = start_campaign(tmp_path / "camp", settings=SINGLE)
    write_round(layout, 1, paper_world())
    write_text(layout.round(1).candidate("c00").manifest, "{")
    collect(layout, 1, FakeBoard(layout, paper_world()))
    step.main([str(layout.root), "1"])
    policy = policies.read(layout, 2)
    assert policy.standing == [] and policy.dont_waste_budget_on == []
    assert {trial.reason for trial in policy.tried} == {"no anchor to compare with"}


def test_another_catalogue_cannot_serve(tmp_path: Path) -> None:
    layout = play_to_evidence(tmp_path / "camp", paper_world())
    tiny = Catalogue(
        axes=[Axis(id="a", category="c", brief="", moves=[Move(id="m", set={"k": 1})])]
    )
    write_yaml(tmp_path / "substrate" / "axes.yaml", tiny)
    with pytest.raises(ConfigError, match="no 7 orthogonal axes"):
        step.main([str(layout.root), "1"])


def test_a_lost_policy_is_written_again_from_the_same_records(tmp_path: Path) -> None:
    """The discoveries of the round are in the log by then; the proposal must not depend on them."""
    layout = play_to_evidence(tmp_path / "camp", paper_world())
    step.main([str(layout.root), "1"])
    before = files(layout.root)
    layout.policy(2).unlink()
    step.main([str(layout.root), "1"])
    assert files(layout.root) == before


def test_anchors_that_repeat_a_recipe_measure_the_boards_noise(tmp_path: Path) -> None:
    """A lucky or unlucky anchor widens what counts as noise, for all explorers of its round."""
    layout = start_campaign(tmp_path / "camp", settings=SINGLE)
    play(layout, 1, World({}, lb=0.80), quota=8)
    unlucky = World({"rank/m1": Effect(dev=0.03, lb=0.0)}, lb=0.70)
    play(layout, 2, unlucky, quota=8)
    before, after = (read(Evidence, layout.round(n).evidence).calibration for n in (1, 2))
    assert (before.lb_runs, after.lb_runs) == (2, 4)
    assert before.lb_sd < 0.01 / 2**0.5 + 1e-4
    assert after.lb_sd > 4 * before.lb_sd


def test_a_likely_move_stands_unestablished_and_is_measured_again(tmp_path: Path) -> None:
    world = World({"rank/m1": Effect(dev=0.02, lb=0.01)})
    layout = start_campaign(tmp_path / "camp", settings=SINGLE)
    play(layout, 1, world, quota=8)
    policy = policies.read(layout, 2)
    assert [(item.axis, item.established) for item in policy.standing] == [("rank", False)]
    assert policy.standing[0].provenance.figure.startswith("not established: expected +0.01")
    assert next(t for t in policy.tried if t.axis == "rank").outcome == "likely"
    play(layout, 2, world, quota=8)
    held = read(Evidence, layout.round(2).evidence).patterns.stacked
    assert held is not None and held.changes == [policy.standing[0].id]
    assert held.verdict == "holds"


def test_a_likely_move_leaves_when_the_anchor_loses_by_it(tmp_path: Path) -> None:
    layout = start_campaign(tmp_path / "camp", settings=SINGLE)
    play(layout, 1, World({"rank/m1": Effect(dev=0.02, lb=0.01)}), quota=8)
    play(layout, 2, World({"rank/m1": Effect(dev=-0.05, lb=-0.05)}), quota=8)
    assert "rank" not in [item.axis for item in policies.read(layout, 3).standing]
