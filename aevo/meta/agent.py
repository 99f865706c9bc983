"""The meta step's language model: evidence and policy in, one typed proposal out, by one tool.

Its system prompt is the constitution, verbatim and nothing else. It reads computed figures, the
collector's prose as commentary, the policy and the catalogue, and what workers changed in code: the
lines, their title and summary, cut and escaped; no findings of an agent, no file, no shell. The
constitution's checked rules judge what it hands in; broken ones go back to it. After
`conversation.TRIES` refusals, or where the endpoint fails, the rule-based proposal stands in.

Nothing that was written by a worker, a collector or this model decides a figure or a promotion:
gains are computed, a promotion must have earned its place by them (R1, R2), and its change comes
from the manifest. What a misled model can do is choose worse axes, within the rules.
"""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from aevo.config.agent import EndpointSettings
from aevo.evidence import excerpts
from aevo.files import documents
from aevo.llm.conversation import TRIES, Ruling, at_endpoint, converse
from aevo.llm.model import ToolSchema
from aevo.llm.prompts import render
from aevo.meta.draft import Draft
from aevo.meta.proposing import Question, citation_faults, form_faults, repeatable, to_proposal
from aevo.policy import constitution
from aevo.policy.case import History
from aevo.policy.promotion import judge as judge_trials
from aevo.policy.rotation import active, rotation_due
from aevo.policy.worth import Situation
from aevo.records.evidence import Evidence
from aevo.records.policy import Objective
from aevo.records.proposal import Attempt, Prompt, Proposal, RuleResult, Session, Verdict
from aevo.records.trace import Trace, Turn
from aevo.substrate.catalogue import Axis, categories_needed

MOST_TRIALS, MOST_DISCOVERIES = 80, 40  # the latest of each that the prompt shows
MOST_CURVES = 4  # of a candidate's runs
CODE = {"own", "knobs", "category"}  # of a trial: shown as diffs, once
NAMED = "model"  # author of a proposal until the conversation has ended


def propose_with_model(
    settings: EndpointSettings, asked: Question, history: History, text: str, folder: Path
) -> Proposal:
    """The model's proposal if one was accepted, else the rules' with the reason as its author.

    Args:
        text: the constitution, as `constitution.load` returned it.
        folder: round-KK/meta; keeps prompt, conversation, every proposal and verdict, and
            session.json. Killed and run again, it goes on from the conversation.

    Raises:
        RecordError: the folder cannot be written, or its trace is corrupt.
    """
    turns = opening(asked, history, text)
    if not (folder / "prompt.json").exists():
        documents.write_json(folder / "prompt.json", Prompt(turns=turns))
    ended = converse(
        at_endpoint(settings, asked.evidence.round, folder),
        PROPOSE,
        turns,
        Trace(folder / "trace.jsonl"),
        partial(_judge, asked=asked, history=history, folder=folder),
    )
    session = Session(
        author=ended.author,
        model=ended.model,
        refusals=ended.refusals,
        reason=ended.reason,
        cost=ended.cost,
    )
    documents.write_json(folder / "session.json", session)
    return (ended.product or asked.rules).model_copy(update={"author": ended.author})


def opening(asked: Question, history: History, text: str) -> list[Turn]:
    """The constitution as system prompt, and the round as the user's turn."""
    evidence, policy = asked.evidence, asked.policy
    prose = evidence.prose.sections if evidence.prose else {}
    n_axes = len(evidence.candidates) - 1
    retired = active(policy.retired, evidence.round + 1)
    task = render(
        "meta",
        "meta_task",
        tool=PROPOSE.name,
        tries=TRIES,
        number=evidence.round,
        n_axes=n_axes,
        categories=categories_needed(n_axes, asked.catalogue),
        stack_up_to=asked.policy.stack_up_to,
        rotate=rotation_due(evidence),
        figures=excerpts.computed(evidence),
        prose=excerpts.data(prose) if prose else "",
        changes=excerpts.changes(evidence),
        spent=excerpts.data(_spent(evidence)),
        repeatable=excerpts.data(_repeatable(asked)),
        trainings=asked.policy.trainings,
        promotions=asked.policy.noise.promotions_per_round,
        likely=asked.policy.likely_per_round,
        policy=excerpts.data(_policy(asked)),
        trials=[excerpts.data(t) for t in _trials(asked)],
        earned=excerpts.data(_earned(asked)),
        catalogue=[excerpts.data(_axis(asked, axis)) for axis in asked.catalogue.axes],
        retired=excerpts.data([item.axis or item.category for item in retired]),
        discoveries=[
            excerpts.data(excerpts.bounded(item.model_dump(include={"round", "kind", "text"})))
            for item in history.discoveries
            if item.round < evidence.round
        ][-MOST_DISCOVERIES:],
    )
    return [Turn(role="system", content=text), Turn(role="user", content=task)]


def _judge(
    number: int, arguments: dict[str, Any], *, asked: Question, history: History, folder: Path
) -> Ruling[Proposal]:
    """Judges the model's reply of that number, and keeps proposal and verdict on record."""
    proposal, verdict = judge(arguments, asked, history)
    attempt = Attempt(arguments=arguments, proposal=proposal)
    for name, record in (("proposal", attempt), ("verdict", verdict)):
        path = folder / f"{name}-{number}.json"
        if not path.exists():
            documents.write_json(path, record)
    if verdict.accepted and proposal is not None:
        return Ruling(proposal)
    broken = [f"{item.rule}: {item.text}" for item in verdict.rules if not item.passed]
    return Ruling(None, broken)


def judge(
    arguments: dict[str, Any], asked: Question, history: History
) -> tuple[Proposal | None, Verdict]:
    """The proposal that a call amounts to, and the verdict: `form` and `citations`, then the
    constitution's rules; the form alone where the call is no draft at all."""
    sha256 = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()
    try:
        draft = Draft.model_validate(arguments)
    except ValidationError as error:
        fault = RuleResult(rule="form", passed=False, text=documents.problems(error))
        return None, Verdict(proposal_sha256=sha256, rules=[fault])
    rules = [
        _result("form", form_faults(draft, asked)),
        _result("citations", citation_faults(draft, asked)),
    ]
    proposal = to_proposal(draft, asked, NAMED)
    verdict = constitution.check(proposal, asked.evidence, asked.policy, history)
    return proposal, verdict.model_copy(update={"rules": [*rules, *verdict.rules]})


def _result(rule: str, faults: list[str]) -> RuleResult:
    return RuleResult(rule=rule, passed=not faults, text="; ".join(faults) or "holds")


def _policy(asked: Question) -> dict[str, Any]:
    """The current policy without the code of its changes."""
    policy = asked.policy
    shown = policy.model_dump(exclude={"standing", "tried", "axes", "provenance"})
    shown["standing"] = [
        {
            "id": item.id,
            "axis": item.axis,
            "change": item.change.summary(),
            "title": item.title,
            "diff": item.change.excerpt(12),
            "figure": item.provenance.figure,
        }
        for item in policy.standing
    ]
    shown["axes"] = [f"{axis.axis} ({axis.category})" for axis in policy.axes]
    shown["tried"] = [trial.model_dump(exclude=CODE) for trial in policy.tried[-MOST_TRIALS:]]
    bounded: dict[str, Any] = excerpts.bounded(shown)
    return bounded


def _trials(asked: Question) -> list[dict[str, Any]]:
    """This round's trials as measured, without a judgement."""
    objective = asked.policy.objective
    judged = judge_trials(asked.evidence, asked.policy, asked.catalogue, objective)
    return [
        excerpts.bounded(trial.model_dump(exclude={"outcome", "reason", "round", *CODE}))
        for trial in judged.trials
    ]


def _earned(asked: Question) -> dict[str, dict[str, str]]:
    """Per objective, who may be promoted by R1 and R2, and by which figure."""
    result: dict[str, dict[str, str]] = {objective: {} for objective in get_args(Objective)}
    for item in asked.evidence.candidates:
        if item.role == "explorer":
            for objective in get_args(Objective):
                figure = asked.earned(item, objective)
                if figure:
                    result[objective][item.candidate] = figure
    return result


def _repeatable(asked: Question) -> dict[str, dict[str, Any]]:
    """Measured changes that may be assigned again, by round and candidate."""
    found = repeatable(asked, asked.policy.objective)
    return {
        source: excerpts.bounded(
            {"axis": trial.axis, "move": trial.move, "title": trial.own.title if trial.own else ""}
        )
        for source, trial in found.items()
    }


def _spent(evidence: Evidence) -> dict[str, dict[str, Any]]:
    """Trainings of each candidate, why those failed that did, and the learning curves by run."""
    return {
        item.candidate: {
            "trainings": len(item.runs),
            "failed": [excerpts.excerpt(run.failure) for run in item.runs if run.failure],
            "curves": {run.run: run.curve for run in item.runs[:MOST_CURVES] if run.curve},
        }
        for item in evidence.candidates
    }


def _axis(asked: Question, axis: Axis) -> dict[str, Any]:
    """A catalogue axis with the moves that are open as the policy stands."""
    policy = asked.policy
    situation = Situation(
        evidence=asked.evidence,
        policy=policy,
        catalogue=asked.catalogue,
        mode=policy.mode,
        standing=policy.standing,
        dead_ends=policy.dont_waste_budget_on,
        tried=policy.tried,
    )
    open_moves = [move for name in situation.open_moves(axis) if (move := axis.move(name))]
    shown: dict[str, Any] = excerpts.bounded(
        {
            "axis": axis.id,
            "category": axis.category,
            "transfer": axis.transfer,
            "knobs": axis.knobs,
            "brief": axis.brief,
            "open_moves": {move.id: f"{move.change.summary()} ({move.why})" for move in open_moves},
        },
        400,
    )
    return shown


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A JSON schema without references: not every server follows them."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref", "")
    whole = {**definitions.get(reference.rpartition("/")[2], {}), **schema}
    return {
        name: _inlined(item, definitions)
        for name, item in whole.items()
        if name not in ("$ref", "$defs", "title")
    }


_SCHEMA = Draft.model_json_schema()
PROPOSE = ToolSchema(
    name="propose",
    description="Hands in the search policy of the next round. A refusal names the broken rules.",
    parameters=_inlined(_SCHEMA, _SCHEMA.get("$defs", {})),
)
