"""The design-rationale audit: did the round test its plan, and can its figures be trusted?"""

from collections.abc import Sequence

from aevo.evidence.inputs import CandidateFacts, RoundFacts
from aevo.policy.document import digest
from aevo.records.evidence import Audit, CandidateSummary
from aevo.substrate.catalogue import overlap, touches

SCORE_SLACK = 1e-6


def audit(facts: RoundFacts, summaries: Sequence[CandidateSummary]) -> list[Audit]:
    """One line per check, always all of them and in this order."""
    return [
        _check("The plan was made from this round's policy", _policy(facts)),
        _check("Every candidate was scored", _unscored(summaries)),
        _check("One anchor ran the standing recipe untouched", _anchor(facts)),
        _check("Each explorer kept to its axis", _off_axis(facts)),
        _check("Every candidate ran on the pinned substrate", _foreign(facts)),
        _check("Training seeds were those of the plan", _seeds(facts)),
        _check("All candidates were scored on the same items", _items(facts)),
        _check("Scores agree with the per-item predictions", _scores(facts)),
        _check("The anchor was submitted with the explorers", _submitted(facts)),
    ]


def _check(check: str, faults: list[str]) -> Audit:
    return Audit(check=check, passed=not faults, text="; ".join(faults) or "Yes.")


def _unscored(summaries: Sequence[CandidateSummary]) -> list[str]:
    return [f"{s.candidate} {s.status}: {s.failure}" for s in summaries if s.status != "ok"]


def _policy(facts: RoundFacts) -> list[str]:
    found, planned = digest(facts.policy), facts.plan.policy_sha256
    return [] if found == planned else [f"policy {found[:12]}, the plan names {planned[:12]}"]


def _anchor(facts: RoundFacts) -> list[str]:
    anchors = [item for item in facts.candidates if item.plan.role == "anchor"]
    if len(anchors) != 1:
        return [f"the plan has {len(anchors)} anchors"]
    manifest = anchors[0].usable
    if manifest is None:
        return ["the anchor was not scored, so no gain can be measured"]
    changed = [manifest.change, *(run.change for run in manifest.runs)]
    return [] if all(change.empty for change in changed) else ["the anchor changed its recipe"]


def _off_axis(facts: RoundFacts) -> list[str]:
    faults = []
    for item in facts.candidates:
        axis = item.plan.axis
        if item.usable is None or axis is None or not axis.knobs:
            continue
        files = {edit.file for edit in item.usable.change.edits}
        others = [knob for brief in facts.policy.axes if brief != axis for knob in brief.knobs]
        foreign = [
            key
            for key in touches(item.usable.change)
            if not any(overlap(key, knob) for knob in axis.knobs)
            # code that makes a knob's new value lies where it must; not in another axis's file
            and (key not in files or any(overlap(key, knob) for knob in others))
        ]
        if foreign:
            faults.append(f"{item.plan.id} also touched {', '.join(foreign)}")
    return faults


def _foreign(facts: RoundFacts) -> list[str]:
    return [
        f"{item.plan.id} ran on {item.usable.substrate_sha256[:12]}"
        for item in facts.candidates
        if item.usable and item.usable.substrate_sha256 != facts.plan.substrate_sha256
    ]


def _seeds(facts: RoundFacts) -> list[str]:
    faults = []
    for item in facts.candidates:
        for run in item.usable.runs if item.usable else []:
            if run.seed not in item.plan.seeds:
                faults.append(f"{item.plan.id} run {run.number} used seed {run.seed}")
    return faults


def _items(facts: RoundFacts) -> list[str]:
    scored = [item for item in facts.candidates if item.correct]
    anchor = facts.anchor
    if anchor is None or not anchor.correct:
        return ["the anchor's predictions are missing"]
    return [
        f"{item.plan.id} has {len(item.correct.keys() ^ anchor.correct.keys())} items of its own"
        for item in scored
        if item.correct.keys() != anchor.correct.keys()
    ]


def _scores(facts: RoundFacts) -> list[str]:
    return [fault for item in facts.candidates for fault in _score(item)]


def _score(item: CandidateFacts) -> list[str]:
    selected = item.usable.selected if item.usable else None
    if selected is None:
        return []
    if not item.correct:
        return [f"{item.plan.id}: {item.problem}"]
    mean = sum(item.correct.values()) / len(item.correct)
    if abs(mean - selected.dev) <= SCORE_SLACK:
        return []
    return [f"{item.plan.id} states dev {selected.dev:.6f}, its predictions give {mean:.6f}"]


def _submitted(facts: RoundFacts) -> list[str]:
    board, anchor = facts.leaderboard, facts.anchor
    if board is None or not board.submissions:
        return ["nothing was submitted"]
    pending = [f"{s.candidate}: its score is not in yet" for s in board.submissions if s.pending]
    if anchor is None or board.score_of(anchor.plan.id) is None:
        return ["the anchor has no leaderboard score, so LB gains are unknown", *pending]
    return [*(f"{s.candidate}: {s.error}" for s in board.submissions if s.error), *pending]
