"""The judge's look at the runs of one candidate, when its agent has ended.

An anchor runs the standing recipe untouched, by rule: it has no agent and nothing to be judged.
"""

from aevo.config.agent import EndpointSettings
from aevo.errors import SubstrateError
from aevo.evaluate import opinion
from aevo.evaluate.judging import Judge
from aevo.files.documents import finished, read
from aevo.files.untrusted import there
from aevo.jobs.folder import JobFolder
from aevo.jobs.state import observe
from aevo.records.judgement import Flag, Judgement, Opinion
from aevo.substrate.measured import recorded_change
from aevo.work.broker import Broker


def judge_runs(broker: Broker) -> None:
    """Judges every run that has a result, once each."""
    if broker.candidate.role == "anchor":
        return
    for number in broker.runs():
        if there(broker.files.run(number).result):
            _judge(broker, number)


def flags_of(broker: Broker, number: int) -> list[str]:
    """What the judge flagged in a run, one line a flag; nothing where it was not judged."""
    path = broker.files.run(number).judgement
    if not path.exists():
        return []
    found = read(Judgement, path)
    return [f"{flag.rule}: {flag.text} ({'; '.join(flag.evidence[:3])})" for flag in found.flags]


def _judge(broker: Broker, number: int) -> None:
    run, spec = broker.files.run(number), broker.train_spec(number)
    if finished(Judgement, run.judgement):
        return
    found = broker.inspection(number)
    if found.failure is not None or found.result is None:
        return  # refused: it counts for nothing as it is
    judge = Judge(broker.substrate, broker.round.standing, spec.steps[-1].argv, spec.steps[0].argv)
    others = [
        broker.inspection(other)
        for other in broker.runs()
        if other < number and there(broker.files.run(other).result)
    ]
    log = observe(JobFolder.of(spec)).log
    made = judge.judge(run, found, others, broker.trace.turns(), log, _opinion(broker, number))
    if made.flags:
        broker.trace.note("note", run=number, flagged=[flag.rule for flag in made.flags])


def _opinion(broker: Broker, number: int) -> tuple[list[Flag], Opinion] | None:
    """A model's view of what a run changed in code; recipe keys need none."""
    settings, run = broker.campaign.config.agent, broker.files.run(number)
    if not isinstance(settings, EndpointSettings):
        return None
    try:
        change = recorded_change(broker.substrate, run.fork, broker.round.standing)
    except SubstrateError:
        return None  # then the run counts for nothing as it is
    if not change.edits:
        return None
    where = run.inspection.parent / "opinion.jsonl"
    return opinion.ask(change, settings, broker.plan.round, broker.files.root, where)
