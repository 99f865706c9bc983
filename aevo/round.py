"""Runs one round: plan, fork, eight workers, collector, meta; then follows them.

    python -m aevo.round +round=3
    python -m aevo.round +round=3 worker.n=4 model=tiny seed=7
    python -m aevo.round -m seed=1,2

Without `+round` the next unfinished round runs. Run again after any interruption, it adopts what is
alive, submits only what is missing and repeats no finished work. With `follow=false` it returns
when the jobs are submitted; with `dry_run=true` it prints them and writes nothing. On Slurm the
jobs do not need this command: killing it harms nothing.
"""

from pathlib import Path

from filelock import FileLock, Timeout

from aevo.config.schema import Config
from aevo.errors import ConfigError, JobError
from aevo.evaluate.contract import Doomed, check_baseline
from aevo.files.documents import finished, write_yaml
from aevo.files.paths import CandidateLayout, Layout
from aevo.jobs.folder import JobFolder
from aevo.jobs.state import observe
from aevo.jobs.submit import exhausted, submit
from aevo.plan.cancel import cancel_all
from aevo.plan.candidates import ensure_plan
from aevo.plan.graph import round_jobs
from aevo.plan.setup import OpenCampaign
from aevo.records.evidence import Evidence
from aevo.records.job import JobSpec
from aevo.records.manifest import Manifest
from aevo.records.policy import Policy
from aevo.start import snapshot
from aevo.start.command import hydra_main
from aevo.start.forecast import ask_slurm
from aevo.start.opening import open_campaign
from aevo.start.preflight import free_space
from aevo.studies.scale import refusal
from aevo.view.dryrun import show_graph
from aevo.view.follow import follow
from aevo.view.outcome import check_measured


def main(config: Config) -> None:
    """The command: the round that was asked for, after missing earlier ones if few enough."""
    refusal.check(config)
    if config.dry_run:
        number = config.round or next_round(Layout(config.root))
        show_graph(config, [number], "python -m aevo.round")
        return
    if not Layout(config.root).campaign.exists():
        ask_slurm(config, config.round or 1)
    campaign = open_campaign(config)
    layout = campaign.layout
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
        run_round(campaign, earlier, stay=True)
    run_round(campaign, number, stay=config.follow)


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


def run_round(campaign: OpenCampaign, number: int, stay: bool) -> None:
    """Runs or continues round `number`; returns when it is finished, or submitted if not `stay`.

    Raises:
        JobError: collector or meta failed for good, another driver is submitting, every candidate
            failed, or the baseline's evaluation breaks the contract.
    """
    layout, config = campaign.layout, campaign.config
    if is_finished(layout, number):
        check_measured(layout, number)
        print(f"round {number} of {layout.root} is finished", flush=True)
        return
    specs = submit_round(campaign, number)
    if not stay:
        show_submitted(layout, number, specs)
        return

    def done() -> bool:
        check_baseline(layout)
        return is_finished(layout, number)

    try:
        follow(
            layout,
            layout.round(number),
            specs,
            done,
            lambda spec: resubmit(spec, config),
            ours=config.cluster.kind == "local",
        )
        check_measured(layout, number)
    except JobError as error:
        # on this machine they belong to this command, which ends here; and none shall burn a
        # cluster's hours for nothing
        if config.cluster.kind == "local" or isinstance(error, Doomed):
            cancel_all(layout)
        raise


def submit_round(campaign: OpenCampaign, number: int) -> list[JobSpec]:
    """Submits what is missing of a round; its plan is made here if its policy exists, else by a
    job that needs the round before.

    Raises:
        JobError: a job is out of attempts, or another driver is submitting.
    """
    layout, config = campaign.layout, campaign.config
    try:
        with FileLock(layout.lock, timeout=60):
            write_yaml(layout.round(number).config, config)  # its jobs read it from there
            planned = finished(Policy, layout.policy(number))
            if planned:
                ensure_plan(campaign, number)
            code = str(snapshot.take(layout, config))
            specs = round_jobs(campaign, number, planned, code)
            for spec in specs:
                if not out_of_round(spec):
                    submit(spec, config.cluster)
            return specs
    except Timeout as error:
        raise JobError(
            f"another command has held {layout.lock} for 60 s", "let it finish, then run this again"
        ) from error


def out_of_round(spec: JobSpec) -> bool:
    """True for a worker that will not run again: it has its manifest, was cancelled as a
    candidate, or failed for good. That is data for the collector, not an error."""
    if spec.kind != "worker":
        return False
    if finished(Manifest, Path(spec.product)):
        return True
    if CandidateLayout(Path(spec.product).parent).cancelled.exists():
        return True
    job = JobFolder.of(spec)
    state = observe(job)
    return state.phase in ("failed", "lost") and exhausted(job, state, spec)


def resubmit(spec: JobSpec, config: Config) -> None:
    """While a round is followed: submits again what failed or was lost, not what was cancelled.

    Raises:
        JobError: collector or meta is out of attempts, or was cancelled.
    """
    state = observe(JobFolder.of(spec))
    if state.alive or state.phase == "finished" or out_of_round(spec):
        return
    if state.cancelled:
        if spec.kind == "worker":
            return
        raise JobError(f"job {spec.name} was cancelled", "run the same command again to go on")
    submit(spec, config.cluster)


def show_submitted(layout: Layout, number: int, specs: list[JobSpec]) -> None:
    """Job ids, and how to watch them."""
    states = [observe(JobFolder.of(spec)) for spec in specs]
    ids = ", ".join(f"{state.name} {state.job_id}" for state in states if state.job_id)
    print(
        f"round {number} is under way: {ids}\n"
        f"  python -m aevo.status {layout.root} --round {number} --watch\n"
        f"  scripts/tail {layout.root} --round {number}\n"
        f"  tail -f {layout.round(number).log}",
        flush=True,
    )


entry = hydra_main(main)

if __name__ == "__main__":
    entry()
