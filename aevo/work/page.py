"""The page of a worker's prompt that says what the campaign is: figures of its records alone, of
dev and never of the leaderboard."""

from statistics import mean

from aevo.files.documents import finished, read
from aevo.files.paths import Layout
from aevo.llm.prompts import render
from aevo.records.manifest import Manifest
from aevo.records.plan import Plan
from aevo.records.policy import NoiseRule, Policy
from aevo.records.scores import Score, Scores
from aevo.work.broker import Broker
from aevo.work.shell import LIMITS


def page(broker: Broker, policy: Policy) -> str:
    """The campaign as its workers need to know it."""
    config, layout, number = broker.campaign.config, broker.campaign.layout, broker.plan.round
    asked = config.trainer.over(config.model.train)
    return render(
        "work",
        "worker_page",
        model=config.model.name,
        base=base_score(layout),
        standing=standing_dev(layout, broker.plan),
        noise=noise(policy.noise),
        seconds=seconds(layout, number),
        limits=asked,
        budget=broker.plan.budget,
        trainer=config.trainer.name,
        selection=policy.selection,
        shell=LIMITS,
        seeds=len(broker.candidate.seeds),
    ).strip()


def base_score(layout: Layout) -> Score | None:
    """The base checkpoint's score on dev, where it was measured."""
    path = layout.baseline / "scores.json"
    return read(Scores, path).scores.get("base") if finished(Scores, path) else None


def anchor_before(layout: Layout, number: int) -> Manifest | None:
    """The manifest of the anchor of the round before `number`, if there is one."""
    path = layout.round(number - 1).candidate("c00").manifest
    return read(Manifest, path) if finished(Manifest, path) else None


def standing_dev(layout: Layout, plan: Plan) -> str:
    """What is known of the standing recipe's dev, in words."""
    anchor = anchor_before(layout, plan.round)
    found = [run.best.dev for run in anchor.runs if run.best] if anchor else []
    if not found:
        return "not measured yet; the anchor trains it while you work"
    said = f"{mean(found):.3f} (mean of {len(found)} runs of the last round's anchor)"
    before = read(Plan, layout.round(plan.round - 1).plan)
    if before.standing_recipe_sha256 == plan.standing_recipe_sha256:
        return said
    return f"changed since; before it was {said}"


def noise(rule: NoiseRule) -> str:
    """What chance does between two runs of one recipe, in words."""
    if rule.seed_sd is None:
        return (
            f"not measured yet; two runs of one recipe are thought to differ by up to "
            f"{rule.band_prior:.3f} by chance"
        )
    return f"sd {rule.seed_sd:.3f} between seeds of one recipe ({rule.seed_runs} runs)"


def seconds(layout: Layout, number: int) -> str:
    """What a training took, in words."""
    anchor = anchor_before(layout, number)
    found = [run.seconds for run in anchor.runs if run.seconds] if anchor else []
    return f"about {mean(found):.0f} s for the standing recipe" if found else "not measured yet"
