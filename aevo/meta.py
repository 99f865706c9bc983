"""The meta job: from a round's evidence to the next round's policy, under the constitution.

    aevo.meta:main CAMPAIGN_FOLDER ROUND

Does nothing if the next policy exists. Killed at any point and run again, it writes the same files:
proposal, verdict, discoveries, and the policy last.

With a language model as the round's agent, the proposal is the model's; where it fails, the rules
stand in and the record says so (`aevo.agent.meta_agent`). The constitution judges both.
"""

from pathlib import Path

from aevo import cli, constitution, discovery
from aevo import policy as policies
from aevo.agent.meta_agent import propose_with_model
from aevo.agent.proposing import Question
from aevo.agent.single_tool import endpoint_of
from aevo.axes import load as load_catalogue
from aevo.constitution import History
from aevo.errors import ConfigError, ConstitutionError, JobError
from aevo.layout import Layout
from aevo.proposer import propose
from aevo.records import io
from aevo.records.campaign import Campaign
from aevo.records.evidence import Evidence
from aevo.records.meta import Proposal, Verdict
from aevo.records.policy import Policy
from aevo.substrate import open_substrate


def main(arguments: list[str]) -> None:
    """Job entry: campaign folder, round number.

    Raises:
        JobError: the round has no evidence yet.
        SubstrateError: the constitution is not the one the campaign pinned.
        ConstitutionError: the proposal breaks a rule; no policy is written.
        RecordError: a record is missing or corrupt.
    """
    if len(arguments) != 2:
        raise ConfigError("wrong arguments", "python -m aevo.meta CAMPAIGN_FOLDER ROUND")
    layout, number = Layout(Path(arguments[0])), int(arguments[1])
    if io.finished(Policy, layout.policy(number + 1)):
        return
    campaign = io.read(Campaign, layout.campaign)
    text = constitution.load(Path(campaign.constitution_path), campaign.pins.constitution)
    evidence = _evidence(layout, number)
    previous = policies.read(layout, number)
    catalogue = load_catalogue(open_substrate(Path(campaign.substrate_path)).catalogue,
                               real=campaign.rows_path is not None, trainer=campaign.trainer)
    history = History(catalogue, tuple(discovery.read(layout)))
    proposal = propose(evidence, previous, catalogue)
    folder = layout.round(number)
    settings = endpoint_of(folder)
    if settings is not None:
        asked = Question(evidence, previous, catalogue, proposal)
        proposal = propose_with_model(settings, asked, history, text, folder.meta)
    accept(layout, proposal, evidence, previous, history)
    print(f"policy of round {number + 1}, proposed by {proposal.author}")


def accept(
    layout: Layout, proposal: Proposal, evidence: Evidence, previous: Policy, history: History
) -> Verdict:
    """Judges a proposal and, if no rule is broken, makes it the policy of the next round.

    Raises:
        ConstitutionError: lists every broken rule; proposal and verdict stay on record.
    """
    folder = layout.round(evidence.round).meta
    io.write_json(folder / "proposal.json", proposal)
    verdict = constitution.check(proposal, evidence, previous, history)
    io.write_json(folder / "verdict.json", verdict)
    if not verdict.accepted:
        broken = "; ".join(f"{item.rule}: {item.text}" for item in verdict.rules if not item.passed)
        raise ConstitutionError(
            f"the proposal for round {evidence.round + 1} breaks {broken}",
            f"see {folder / 'verdict.json'}; no policy was written",
        )
    discovery.append(layout, proposal.discoveries)
    policies.write(layout, proposal.policy)
    return verdict


def _evidence(layout: Layout, number: int) -> Evidence:
    path = layout.round(number).evidence
    if not path.exists():
        raise JobError(
            f"{path} is missing, so round {number} cannot be judged",
            f"run the round again (python -m aevo.round +round={number}): its collector writes it",
        )
    return io.read(Evidence, path)


if __name__ == "__main__":
    cli.run(main)
