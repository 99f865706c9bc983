"""Runs one round: plan, fork, eight workers, collector, meta; then follows them.

    python -m aevo.round +round=3
    python -m aevo.round +round=3 worker.n=4 model=tiny seed=7
    python -m aevo.round -m seed=1,2

Without `+round` the next unfinished round runs. Run again after any interruption, it adopts what is
alive, submits only what is missing and repeats no finished work.
"""

from pathlib import Path

from filelock import FileLock, Timeout

from aevo import policy, roundlog
from aevo.config import Config, hydra_main
from aevo.errors import ConfigError, JobError, RecordError
from aevo.follow import follow
from aevo.jobs.state import JobFolder, observe
from aevo.jobs.submit import exhausted, submit
from aevo.layout import Layout
from aevo.plan import make_plan
from aevo.records.campaign import Campaign
from aevo.records.change import Change
from aevo.records.evidence import Evidence
from aevo.records.io import finished, read, write_yaml
from aevo.records.job import JobSpec, Resources
from aevo.records.manifest import Manifest
from aevo.records.plan import Plan
from aevo.records.policy import Policy
from aevo.start import free_space, open_campaign, write_round_config
from aevo.substrate import open_substrate

# Workers, collector and meta compute next to nothing: they take no slot of the machine.
LIGHT = Resources(slots=0, time_min=7 * 24 * 60)


def main(config: Config) -> None:
    """The command: the round that was asked for, after missing earlier ones if few enough."""
    layout, campaign = open_campaign(config)
    free_space(layout)
    number = config.round or next_round(layout)
    missing = [earlier for earlier in range(1, number) if not is_finished(layout, earlier)]
    if len(missing) > config.catch_up:
        raise ConfigError(
            f"round {number} of {layout.root} needs rounds {missing[0]} to {missing[-1]} first, "
            f"more than catch_up={config.catch_up} allows",
            f"run `python -m aevo.campaign rounds={number}`",
        )
    for earlier in missing:
        print(f"round {number} needs round {earlier} first: running it (see catch_up)", flush=True)
        run_round(config, layout, campaign, earlier, stay=True)
    run_round(config, layout, campaign, number, stay=config.follow)


def next_round(layout: Layout) -> int:
    """The first round that is not finished."""
    number = 1
    while is_finished(layout, number):
        number += 1
    return number


def is_finished(layout: Layout, number: int) -> bool:
    """A round is finished when its evidence and the policy it leads to are records."""
    return finished(Evidence, layout.round(number).evidence) and finished(
        Policy, layout.policy(number + 1)
    )


def run_round(
    config: Config, layout: Layout, campaign: Campaign, number: int, stay: bool
) -> None:
    """Runs or continues round `number`; returns when it is finished, or submitted if not `stay`.

    Raises:
        JobError: collector or meta failed for good, or another driver is submitting.
    """
    if is_finished(layout, number):
        print(f"round {number} of {layout.root} is finished", flush=True)
        return
    files = layout.round(number)
    try:
        with FileLock(layout.lock, timeout=60):
            write_round_config(layout, number, config)
            plan = ensure_plan(config, layout, campaign, number)
            specs = job_specs(layout, campaign, plan)
            for spec in specs:
                submit_unless_failed(spec, config)
    except Timeout as error:
        raise JobError(f"another command has held {layout.lock} for 60 s",
                       "let it finish, then run this again") from error
    if not stay:
        print(f"round {number} is under way; follow it with `tail -f {files.log}`", flush=True)
        return
    follow(layout, files, specs, lambda: is_finished(layout, number),
           lambda spec: submit_unless_failed(spec, config))


def ensure_plan(config: Config, layout: Layout, campaign: Campaign, number: int) -> Plan:
    """The round's plan and forks, made if they are missing.

    Raises:
        RecordError: the round's policy is missing; SubstrateError: its standing recipe does not
            apply to the substrate.
    """
    files = layout.round(number)
    substrate = open_substrate(Path(campaign.substrate_path))
    if not finished(Policy, layout.policy(number)):
        raise RecordError(f"{layout.policy(number)} is missing",
                          f"round {number - 1} writes it: run `python -m aevo.round "
                          f"+round={number - 1}` first")
    rules = policy.read(layout, number)
    substrate.fork(files.standing, standing_changes(rules))
    if not finished(Plan, files.plan):
        plan = make_plan(config, campaign, rules, policy.digest(rules),
                         substrate.recipe_sha256(files.standing))
        write_yaml(files.plan, plan, f"Plan of round {number}. Written once; do not edit.")
        roundlog.note(files.log, "round", f"{number} planned: {len(plan.candidates)} candidates, "
                      f"mode {rules.mode}, objective {rules.objective}")
    plan = read(Plan, files.plan)
    for candidate in plan.candidates:
        substrate.fork(files.candidate(candidate.id).fork, [], source=files.standing)
    return plan


def standing_changes(rules: Policy) -> list[Change]:
    """What every fork of the round starts with: promoted changes, then checkpoint selection."""
    changes = [item.change for item in rules.standing]
    if rules.selection.criterion != "dev" or rules.selection.weights:
        changes.append(Change(set={"select.criterion": rules.selection.criterion,
                                   "select.weights": rules.selection.weights}))
    return changes


def job_specs(layout: Layout, campaign: Campaign, plan: Plan) -> list[JobSpec]:
    """The round's graph: workers, the collector after all of them, meta after the collector."""
    files, number = layout.round(plan.round), str(plan.round)

    def spec(name: str, kind: str, product: Path, after: list[str], *more: str) -> JobSpec:
        return JobSpec.model_validate({
            "name": name, "kind": kind, "campaign": campaign.name,
            "folder": str(files.jobs / name), "product": str(product),
            "entry": f"aevo.{kind}:main", "arguments": [str(layout.root), number, *more],
            "after": after, "resources": LIGHT,
        })

    workers = [
        spec(f"{item.id}-worker", "worker", files.candidate(item.id).manifest, [], item.id)
        for item in plan.candidates
    ]
    collector = spec("collector", "collector", files.evidence, [item.name for item in workers])
    meta = spec("meta", "meta", layout.policy(plan.round + 1), ["collector"])
    return [*workers, collector, meta]


def submit_unless_failed(spec: JobSpec, config: Config) -> None:
    """Submits what is missing. A worker that failed for good is data for the collector; a
    collector or meta that did so ends the command.

    Raises:
        JobError: collector or meta is out of attempts.
    """
    state = observe(JobFolder(Path(spec.folder)))
    gone = state.phase in ("failed", "lost")
    if spec.kind == "worker":
        if finished(Manifest, Path(spec.product)):
            return
        if gone and exhausted(JobFolder(Path(spec.folder)), state, spec):
            return
    submit(spec, config.cluster)


entry = hydra_main(main)

if __name__ == "__main__":
    entry()
