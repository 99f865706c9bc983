"""The meta job: from a round's evidence to the next round's policy, under the constitution.

    aevo.meta.step:main CAMPAIGN_FOLDER ROUND

Does nothing if the next policy exists. Killed at any point and run again, it writes the same files:
proposal, verdict, discoveries, and the policy last.

With a language model as the round's agent, the proposal is the model's; where it fails, the rules
stand in and the record says so (`aevo.meta.agent`). The constitution judges both.
"""

from pathlib import Path

from aevo import cli
from aevo.config.schema import endpoint_of
from aevo.errors import ConfigError, ConstitutionError, JobError
from aevo.files import documents
from aevo.files.paths import Layout
from aevo.files.roundlog import note
from aevo.llm.conversation import STOOD_IN
from aevo.meta.agent import propose_with_model
from aevo.meta.proposing import Question
from aevo.meta.rules import propose
from aevo.plan.setup import catalogue_of
from aevo.policy import chain, constitution, discoveries
from aevo.policy import document as policies
from aevo.policy.case import History
from aevo.records.campaign import Campaign
from aevo.records.evidence import Evidence
from aevo.records.policy import Policy
from aevo.records.proposal import Proposal, Verdict


def main(arguments: list[str]) -> None:
    """Job entry: campaign folder, round number.

    Raises:
        JobError: the round has no evidence yet.
        SubstrateError: the constitution is not the one the campaign pinned.
        ConstitutionError: the proposal breaks a rule; no policy is written.
        RecordError: a record is missing or corrupt.
    """
    if len(arguments) != 2:
        raise ConfigError("wrong arguments", "python -m aevo.meta.step CAMPAIGN_FOLDER ROUND")
    layout, number = Layout(Path(arguments[0])), int(arguments[1])
    if documents.finished(Policy, layout.policy(number + 1)):
        chain.seal(layout, number)
        return
    campaign = documents.read(Campaign, layout.campaign)
    text = constitution.load(Path(campaign.constitution_path), campaign.pins.constitution)
    evidence = _evidence(layout, number)
    previous = policies.read(layout, number)
    catalogue = catalogue_of(campaign)
    history = History(catalogue, tuple(discoveries.read(layout)))
    proposal = propose(evidence, previous, catalogue)
    folder = layout.round(number)
    settings = endpoint_of(folder)
    if settings is not None:
        asked = Question(evidence, previous, catalogue, proposal)
        proposal = propose_with_model(settings, asked, history, text, folder.meta)
    accept(layout, proposal, evidence, previous, history)
    chain.seal(layout, number)
    said = f"policy of round {number + 1}, proposed by {proposal.author}"
    print(said)
    if proposal.author.startswith(STOOD_IN):
        note(folder.log, "meta", said)


def accept(
    layout: Layout, proposal: Proposal, evidence: Evidence, previous: Policy, history: History
) -> Verdict:
    """Judges a proposal and, if no rule is broken, makes it the policy of the next round.

    Raises:
        ConstitutionError: lists every broken rule; proposal and verdict stay on record.
    """
    folder = layout.round(evidence.round).meta
    documents.write_json(folder / "proposal.json", proposal)
    verdict = constitution.check(proposal, evidence, previous, history)
    documents.write_json(folder / "verdict.json", verdict)
    if not verdict.accepted:
        broken = "; ".join(f"{item.rule}: {item.text}" for item in verdict.rules if not item.passed)
        raise ConstitutionError(
            f"the proposal for round {evidence.round + 1} breaks {broken}",
            f"see {folder / 'verdict.json'}; no policy was written",
        )
    discoveries.append(layout, proposal.discoveries)
    policies.write(layout, proposal.policy)
    return verdict


def _evidence(layout: Layout, number: int) -> Evidence:
    path = layout.round(number).evidence
    if not path.exists():
        raise JobError(
            f"{path} is missing, so round {number} cannot be judged",
            f"run the round again (python -m aevo.round +round={number}): its collector writes it",
        )
    return documents.read(Evidence, path)


if __name__ == "__main__":
    cli.run(main)
