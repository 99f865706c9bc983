"""The collector job: submits to the leaderboard and writes the round's evidence, in one shot.

    aevo.evidence.collector:main CAMPAIGN_FOLDER ROUND

Runs after all workers have ended, however they ended. It waits for nothing, never fails over a
candidate, and does nothing if the evidence exists. Killed and run again, it gives the same files.

Figures, statistics and verdicts are computed. Where the round's agent is a language model, it adds
prose to the five sections, which is checked against the figures and which no decision reads; where
it fails, the computed sentences stand alone and the record says why (`aevo.evidence.prose`).
"""

import sys
from pathlib import Path

from aevo import cli
from aevo.config.schema import endpoint_of
from aevo.errors import ConfigError
from aevo.evaluate import clearing
from aevo.evidence import wording
from aevo.evidence.build import build
from aevo.evidence.inputs import CandidateFacts, RoundFacts, read_round, read_rounds
from aevo.evidence.prose import write_prose
from aevo.files import documents
from aevo.files.paths import Layout, RoundLayout
from aevo.files.roundlog import note
from aevo.leaderboard import Board, Entry
from aevo.leaderboard.configured import open_board
from aevo.plan.setup import OpenCampaign
from aevo.records.evidence import Evidence
from aevo.records.manifest import Manifest, Selected
from aevo.records.policy import Policy
from aevo.records.scores import weighted_mean


def main(arguments: list[str]) -> None:
    """Job entry: campaign folder, round number.

    Raises:
        RecordError: the plan, policy or campaign record is missing or corrupt.
    """
    if len(arguments) != 2:
        raise ConfigError(
            "wrong arguments", "python -m aevo.evidence.collector CAMPAIGN_FOLDER ROUND"
        )
    layout, number = Layout(Path(arguments[0])), int(arguments[1])
    if documents.finished(Evidence, layout.round(number).evidence):
        return
    board = open_board(OpenCampaign.read(layout, number))
    evidence = collect(layout, number, board)
    print(evidence.calibration.text)


def collect(layout: Layout, number: int, board: Board) -> Evidence:
    """Submits, builds the evidence, writes it (the record last), and returns it.

    Raises:
        RecordError: the plan, policy or leaderboard is missing or corrupt.
    """
    folder = layout.round(number)
    if documents.finished(Evidence, folder.evidence):
        return documents.read(Evidence, folder.evidence)
    clearing.close(folder)
    chosen = choose(read_round(layout, number, predictions=False), board.quota)
    entries = [entry for manifest in chosen if (entry := entry_of(folder, manifest)) is not None]
    board.submit(number, entries)
    evidence = build(read_rounds(layout, number))
    settings = endpoint_of(folder)
    if settings is not None:
        prose = write_prose(evidence, settings, folder.root / "collector")
        evidence = evidence.model_copy(update={"prose": prose})
        print(f"prose by {prose.author}")
        if not prose.sections:
            note(folder.log, "collector", f"prose by {prose.author}")
    documents.write_text(folder.evidence_text, wording.render(evidence))
    documents.write_json(folder.evidence, evidence)
    return evidence


def choose(facts: RoundFacts, quota: int) -> list[Manifest]:
    """What to submit: the anchor, then explorers by the policy's selection score.

    The anchor's further seeds go with its first, which every leaderboard gain is measured against,
    as long as they take no more than half of the quota: each is a manifest that stands by its run.

    When the objective is transfer, explorers on transfer axes go before all others. Explorers that
    changed nothing, which repeat the anchor, go last.
    """
    scored = [item for item in facts.candidates if item.usable is not None]

    def order(item: CandidateFacts) -> tuple[bool, bool, bool, float, str]:
        axis, selected = item.plan.axis, item.usable.selected if item.usable else None
        transfer = facts.policy.divergence_known and axis is not None and axis.transfer
        score = selection_score(facts.policy, selected) if selected else 0.0
        explorer = item.plan.role != "anchor"
        idle = explorer and item.usable is not None and item.usable.change.empty
        return explorer, idle, not transfer, -score, item.plan.id

    chosen: list[Manifest] = []
    for manifest in [item.usable for item in sorted(scored, key=order)]:
        if manifest is not None:
            seeds = _seeds(manifest) if manifest.role == "anchor" else [manifest]
            chosen += seeds[:1] + seeds[1 : quota // 2]
    return chosen[:quota]


def _seeds(anchor: Manifest) -> list[Manifest]:
    """The anchor as it stands, then standing by each of its other scored runs."""
    stood = anchor.selected
    others = [
        Selected(
            run=run.number,
            checkpoint=run.best.name,
            criterion=stood.criterion,
            dev=run.best.dev,
            domains=run.best.domains,
            adapter_sha256=run.best.adapter_sha256,
        )
        for run in anchor.runs
        if stood and run.best and run.change.empty and run.number != stood.run
    ]
    return [anchor, *(anchor.model_copy(update={"selected": item}) for item in others)]


def entry_of(folder: RoundLayout, manifest: Manifest) -> Entry | None:
    """The selected checkpoint as a submission; None, with a line in the log, if it is gone."""
    selected = manifest.selected
    run = folder.candidate(manifest.candidate).run(selected.run) if selected else None
    if selected is None or run is None:
        return None
    adapter = run.adapter(selected.checkpoint)
    if not adapter.is_dir():
        print(f"{manifest.candidate} is not submitted: {adapter} is missing", file=sys.stderr)
        return None
    return Entry(
        candidate=manifest.candidate,
        run=selected.run,
        checkpoint=selected.checkpoint,
        adapter=adapter,
        adapter_sha256=selected.adapter_sha256,
        dev=selected.dev,
    )


def selection_score(policy: Policy, selected: Selected) -> float:
    """dev, or the policy's weighted mean of domain accuracies (weight 1 if none is named)."""
    if policy.selection.criterion != "reweighted":
        return selected.dev
    return weighted_mean(selected.domains, policy.selection.weights)


if __name__ == "__main__":
    cli.run(main)
