"""The worker job: one candidate, from its fork to its manifest.

    aevo.work.worker:main CAMPAIGN_FOLDER ROUND CANDIDATE

Killed at any instant and started again, it goes on from its trace. The manifest is written once,
last; its scores come from evaluation records, whatever the agent said.
"""

import os
import time
from functools import partial
from pathlib import Path

from aevo.config.agent import CliAgent, EndpointSettings
from aevo.errors import AevoError, SubstrateError
from aevo.files import roundlog
from aevo.files.documents import finished, read, write_json
from aevo.files.paths import Layout, RoundLayout
from aevo.files.untrusted import there
from aevo.jobs.usage import gpu_hours, queue_seconds
from aevo.llm.model import Model
from aevo.plan.setup import OpenCampaign
from aevo.policy import document
from aevo.records.change import Change
from aevo.records.manifest import Cost, Manifest, Selected, TrainingRun
from aevo.records.plan import CandidatePlan, Plan
from aevo.records.trace import Trace
from aevo.substrate.catalogue import Move
from aevo.substrate.measured import recorded_change
from aevo.work.arguments import Finish
from aevo.work.brief import first_turns
from aevo.work.broker import Broker
from aevo.work.budget import Meter, shell_seconds
from aevo.work.check import build_command
from aevo.work.cli.desk import AgentMeter
from aevo.work.curve import losses
from aevo.work.judged import flags_of, judge_runs
from aevo.work.loop import run_loop
from aevo.work.page import page
from aevo.work.scripted import ScriptedModel
from aevo.work.tools import Toolbox, claims


def main(arguments: list[str]) -> None:
    """Runs one candidate to its manifest; does nothing if it has one."""
    root, number, name = Path(arguments[0]), int(arguments[1]), arguments[2]
    layout = Layout(root)
    files = layout.round(number)
    if finished(Manifest, files.candidate(name).manifest):
        return
    broker = open_broker(layout, number, name)
    standing_policy = document.read(layout, number)
    trace, budget = broker.trace, broker.plan.budget
    moves = broker.moves()
    check = check_command(broker)
    toolbox = Toolbox(broker.files.fork, broker.substrate, broker)
    agent = agent_of_others(broker)
    model = None if agent else build_model(broker, moves, check)
    name_of = name_of_agent(agent) if agent else model.name if model else ""
    who = by_whom(broker, model) if model else name_of
    trace.note("start", attempt_pid=os.getpid(), by=who)
    roundlog.note(files.log, name, f"worker at work: {axis_name(broker.candidate)}")
    first = first_turns(
        standing_policy,
        broker.candidate,
        broker.substrate.file.mutable,
        moves,
        check,
        broker.trainings,
        budget.turns,
        page(broker, standing_policy),
    )
    meter = (AgentMeter if agent else Meter)(
        budget,
        trace,
        lambda: waited(files, name, trace),
        lambda: gpu_hours(files.jobs.glob(f"{name}-*"), time.time()),
    )
    if model is None:
        from aevo.work.cli.session import run_agent  # `openai`, as below

        outcome = run_agent(broker, toolbox, first, meter)
    else:
        outcome = run_loop(model, toolbox, trace, first, meter)
    score_last_run(broker, toolbox.finish_call)
    judge_runs(broker)
    manifest = build_manifest(broker, toolbox.finish_call, outcome.reason, name_of)
    trace.note("finish", status=manifest.status, reason=outcome.reason)
    write_json(broker.files.manifest, manifest)
    what = f"dev {manifest.selected.dev:.3f}" if manifest.selected else manifest.failure or ""
    flagged = [run.number for run in manifest.runs if run.flags]
    if flagged:
        what += f"; flagged by the judge: run {', '.join(map(str, flagged))}"
    roundlog.note(files.log, name, f"manifest written: {manifest.status}, {what}")


def waited(files: RoundLayout, candidate: str, trace: Trace) -> float:
    """Seconds in which the candidate waited for the scheduler, its own requeues included."""
    return queue_seconds(files.jobs.glob(f"{candidate}-*"), trace.started(), time.time())


def open_broker(layout: Layout, number: int, name: str) -> Broker:
    """The broker of one planned candidate."""
    files = layout.round(number)
    plan = read(Plan, files.plan)
    return Broker(
        OpenCampaign.read(layout, number),
        plan,
        plan.candidate(name),
        Trace(files.candidate(name).trace),
    )


def build_model(broker: Broker, moves: list[Move], check: str) -> Model:
    """The agent the campaign is configured with; an anchor's work is fixed, and is done by rule."""
    agent = broker.campaign.config.agent
    if isinstance(agent, EndpointSettings) and broker.candidate.role != "anchor":
        from aevo.llm.client import OpenAIModel  # `openai` is half of a start's imports

        return OpenAIModel(
            agent,
            seed=broker.candidate.agent_seed,
            on_outage=partial(roundlog.tell, broker.round.log, broker.candidate.id),
            on_retry=lambda kind, trial, wait_s, text: broker.trace.note(
                "note", retry=str(kind), trial=trial, wait_s=round(wait_s, 1), text=text
            ),
        )
    return ScriptedModel(
        moves,
        replicates=repeats(broker),
        recipe=broker.substrate.file.recipe,
        check=check,
        seed=broker.candidate.agent_seed,
    )


def agent_of_others(broker: Broker) -> CliAgent | None:
    """The settings of the coding agent that works here, if one does; never as the anchor."""
    agent = broker.campaign.config.agent
    works = isinstance(agent, CliAgent) and broker.candidate.role != "anchor"
    return agent if works and isinstance(agent, CliAgent) else None


def name_of_agent(agent: CliAgent) -> str:
    """How manifests and traces name a coding agent."""
    from aevo.work.cli.session import agent_name  # `openai`, as above

    return agent_name(agent)


def by_whom(broker: Broker, model: Model) -> str:
    """Who works, for the trace."""
    return "rule: an anchor needs no model" if broker.candidate.role == "anchor" else model.name


def repeats(broker: Broker) -> int:
    """How often rules run one recipe: an anchor once per seed, an explorer as its axis asks."""
    axis = broker.candidate.axis
    return len(broker.candidate.seeds) if axis is None else axis.seeds


def check_command(broker: Broker) -> str:
    """Shell command that builds the fork's data set into scratch space."""
    return build_command(broker.campaign, broker.files.fork, broker.seed(1))


def score_last_run(broker: Broker, finish: Finish | None) -> None:
    """Evaluates the last finished run if the agent ended without a scored one: what was trained
    and paid for counts."""
    runs = [number for number in broker.runs() if there(broker.files.run(number).result)]
    if finish is not None or not runs or broker.files.run(runs[-1]).scores.exists():
        return
    try:
        broker.evaluate(runs[-1])
    except AevoError as error:
        broker.trace.note("note", unscored=str(error))


def axis_name(candidate: CandidatePlan) -> str:
    """The candidate's axis for people."""
    return candidate.axis.axis if candidate.axis else "anchor"


def build_manifest(broker: Broker, finish: Finish | None, reason: str, agent: str) -> Manifest:
    """The manifest from the records of the candidate's runs and the agent's own words."""
    runs = [training_run(broker, number) for number in broker.runs()]
    selected = select(broker, runs, finish)
    chosen = next((run for run in runs if selected and run.number == selected.run), None)
    files = broker.files
    usage = broker.trace.usage()
    failure = None
    if selected is None:
        said = finish.summary if finish else f"the agent ran out of {reason}"
        causes = [run.failure for run in runs if run.failure]
        failure = "; ".join([said, *causes])
    return Manifest(
        campaign=broker.campaign.name,
        round=broker.plan.round,
        candidate=broker.candidate.id,
        role=broker.candidate.role,
        axis=broker.candidate.axis,
        status="ok" if selected else "failed",
        failure=failure,
        move=finish.move if finish else None,
        title=finish.title if finish else "",
        change=chosen.change if chosen else Change(),
        recipe_sha256=chosen.recipe_sha256 if chosen else recipe_sha256(broker, files.fork),
        substrate_sha256=broker.campaign.record.pins.substrate,
        runs=runs,
        selected=selected,
        claims=claims(finish, reason),
        agent=agent,
        cost=Cost(
            turns=broker.trace.model_calls(),
            tokens_in=usage.tokens_in,
            tokens_out=usage.tokens_out,
            dollars=usage.dollars,
            training_s=round(sum(run.seconds for run in runs), 2),
            shell_s=round(shell_seconds(broker.trace), 2),
            wall_s=round(time.time() - broker.trace.started(), 2),
        ),
    )


def recipe_sha256(broker: Broker, fork: Path) -> str:
    """Identifies what a fork trains with; empty for one that no training could be made of."""
    try:
        return broker.substrate.recipe_sha256(fork)
    except SubstrateError:
        return ""


def change_of(broker: Broker, number: int) -> tuple[Change, str | None]:
    """What run `number` changed, or none and why it cannot be told: then the run counts for
    nothing, since what was measured is not what would be recorded."""
    fork = broker.files.run(number).fork
    try:
        return recorded_change(broker.substrate, fork, broker.round.standing), None
    except SubstrateError as error:
        return Change(), str(error)


def training_run(broker: Broker, number: int) -> TrainingRun:
    """One run as its records tell it; a run without a result says why."""
    run = broker.files.run(number)
    change, unrecorded = change_of(broker, number)
    found = broker.inspection(number) if there(run.result) else None
    result = found.result if found else None
    refused = unrecorded or (found.failure if found else None)
    counts = result is not None and refused is None
    scored = broker.checkpoint_scores(number) if counts and run.scores.exists() else []
    failure = None
    if refused is not None:
        failure = f"run {number} does not count: {refused}"
    elif result is None:
        failure = f"run {number}: {broker.settle(number)}"
    elif result.status != "ok":
        failure = f"run {number}: {result.status}"
    return TrainingRun(
        number=number,
        seed=broker.seed(number),
        job=found.proof.job if found and found.proof else None,
        attempt=found.proof.attempt if found and found.proof else None,
        status=result.status if result and counts else "failed",
        steps=result.steps if result else 0,
        final_loss=result.final_loss if result else None,
        tokens=result.tokens if result else 0,
        read=result.read if result else 0,
        budget=result.budget if result else None,
        seconds=result.seconds if result else 0.0,
        recipe_sha256=recipe_sha256(broker, run.fork),
        data_sha256=found.proof.data_sha256 if found and found.proof else None,
        change=change,
        checkpoints=scored,
        failure=failure,
        flags=flags_of(broker, number),
        curve=losses(run),
    )


def select(broker: Broker, runs: list[TrainingRun], finish: Finish | None) -> Selected | None:
    """The checkpoint the candidate stands by: the agent's choice, else the recipe's criterion
    over its last scored run. An anchor's agent has no choice: every gain of the round is measured
    against what the anchor stands by, which is its first scored run's, by the criterion."""
    scored = [run for run in runs if run.checkpoints]
    if not scored:
        return None
    anchor = broker.candidate.role == "anchor"
    run, finish = (scored[0], None) if anchor else (scored[-1], finish)
    if finish is not None and finish.run is not None:
        run = next((item for item in scored if item.number == finish.run), run)
    criterion = broker.criterion(run.number)
    best = run.best
    name = criterion.name
    if finish is not None and finish.checkpoint is not None:
        best = next((item for item in run.checkpoints if item.name == finish.checkpoint), best)
    if best is None:
        return None
    return Selected(
        run=run.number,
        checkpoint=best.name,
        criterion=name,
        dev=best.dev,
        domains=best.domains,
        adapter_sha256=best.adapter_sha256,
    )
