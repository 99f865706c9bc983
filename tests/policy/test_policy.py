"""The operator's first policy, and a policy as Markdown."""

from pathlib import Path

import pytest
import yaml

from aevo.config.policy import PolicySettings
from aevo.errors import ConfigError
from aevo.files.paths import Layout
from aevo.policy import document as policies
from aevo.policy.document import first_policy
from aevo.records.change import Change
from aevo.records.policy import DeadEnd, Provenance, RetiredAxis, StandingChange, Trial
from aevo.statistics.figures import shown, signed
from aevo.substrate.catalogue import shared_knobs
from tests.conftest import REPO
from tests.support.builders import catalogue

CONF = REPO / "conf" / "policy" / "default.yaml"


def test_the_shipped_settings_are_valid() -> None:
    settings = PolicySettings.model_validate(yaml.safe_load(CONF.read_text()))
    assert 0 < settings.promotion_threshold <= settings.lb_threshold < 0.1
    assert settings.mode == "recipe_stabilisation"


@pytest.mark.parametrize("n_axes", [1, 3, 7, 8])
def test_first_axes_are_orthogonal_over_enough_categories(n_axes: int) -> None:
    policy = first_policy(PolicySettings(), catalogue(), n_axes)
    assert policy.round == 1 and len(policy.axes) == n_axes
    assert len({axis.category for axis in policy.axes}) >= min(5, -(-5 * n_axes // 7))
    for index, one in enumerate(policy.axes):
        assert one.moves and not one.transfer
        assert not any(shared_knobs(one.knobs, other.knobs) for other in policy.axes[index + 1 :])


def test_named_axes_come_first() -> None:
    wanted = ["which_checkpoint", "rank", "mix_equation"]
    policy = first_policy(PolicySettings(axes=wanted), catalogue(), 7)
    assert [axis.axis for axis in policy.axes][:3] == wanted


def test_an_unknown_axis_is_named_beside_the_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown lerning_rate.*known: learning_rate, clip"):
        first_policy(PolicySettings(axes=["lerning_rate"]), catalogue(), 7)


def test_too_many_explorers_for_the_catalogue() -> None:
    with pytest.raises(ConfigError, match="no 14 axes that share no knob"):
        first_policy(PolicySettings(), catalogue(), 14)


def test_written_and_read_back(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    policy = first_policy(PolicySettings(), catalogue(), 7)
    policies.write(layout, policy)
    assert policies.read(layout, 1) == policy
    assert policies.digest(policies.read(layout, 1)) == policies.digest(policy)
    before = layout.policy(1).read_bytes()
    policies.write(layout, policy)
    assert layout.policy(1).read_bytes() == before


def test_markdown_has_the_papers_titles_and_every_entry() -> None:
    cited = Provenance(round=2, candidate="c03", figure="dev +0.0410")
    policy = first_policy(PolicySettings(), catalogue(), 7).model_copy(
        update={
            "standing": [
                StandingChange(
                    id="r02-c03-m1", axis="rank", change=Change(set={"a.b": 1}), provenance=cited
                )
            ],
            "dont_waste_budget_on": [
                DeadEnd(id="clip/m1", axis="clip", move="m1", what="lost", provenance=cited)
            ],
            "retired": [RetiredAxis(category="loss", until_round=4, provenance=cited)],
            "tried": [
                Trial(
                    axis="clip",
                    move="a|b",
                    round=2,
                    candidate="c03",
                    gain=-0.05,
                    outcome="dead_end",
                    reason="lost",
                )
            ],
        }
    )
    text = policies.render(policy)
    for title in [
        "Search mode", "Standing recipe", "Search axes", "Noise rules", "Checkpoint selection",
        "Don't waste budget on", "Retired axes", "What has been tried", "Provenance",
    ]:  # fmt: skip
        assert f"\n## {title}\n" in text
    assert "1. `r02-c03-m1` (rank): a.b=1. [round 2, c03: dev +0.0410]" in text
    assert "- **clip / m1**: lost. [round 2, c03: dev +0.0410]" in text
    assert "- category loss, until round 4." in text
    assert "| 2 | c03 | clip | a/b | -0.050 | n/a | dead_end: lost |" in text
    assert "`m1`, `m2`" in text


def test_scores_for_people() -> None:
    assert [shown(x) for x in (0.8, 0.85, 0.8531, 1.0)] == ["0.80", "0.85", "0.8531", "1.00"]
    assert signed(None) == "n/a"
    assert signed(0.0341) == "+0.034"
