"""One proposal with all that the constitution judges it by."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from aevo.policy.promotion import demoted, likely_gain
from aevo.records.discovery import Discovery
from aevo.records.evidence import CandidateSummary, Evidence
from aevo.records.policy import Policy, StandingChange
from aevo.records.proposal import Proposal
from aevo.statistics.effect import Estimate
from aevo.substrate.catalogue import Catalogue


@dataclass(frozen=True)
class History:
    """What a proposal is judged against besides its evidence and the policy before it."""

    catalogue: Catalogue
    discoveries: tuple[Discovery, ...] = ()


@dataclass(frozen=True)
class Case:
    """One proposal with all that it is judged by."""

    proposal: Proposal
    evidence: Evidence
    previous: Policy
    history: History

    @property
    def policy(self) -> Policy:
        return self.proposal.policy

    @property
    def added(self) -> list[StandingChange]:
        """The standing changes beyond those that were kept of the previous policy."""
        return self.policy.standing[len(self.kept) :]

    @property
    def kept(self) -> list[StandingChange]:
        """What must be kept of the previous standing recipe: all but what the anchor lost by."""
        gone = demoted(self.evidence, self.previous)
        return [item for item in self.previous.standing if item not in gone]

    @cached_property
    def likely(self) -> Mapping[str, Estimate]:
        """Candidates of this round whose change may be built upon though not established."""
        return likely_gain(
            self.evidence, self.previous, self.history.catalogue, self.policy.objective
        )

    def source(self, change: StandingChange) -> CandidateSummary | None:
        """The candidate of this round that a promotion cites."""
        if change.provenance.round != self.evidence.round:
            return None
        for summary in self.evidence.candidates:
            if summary.candidate == change.provenance.candidate and summary.role == "explorer":
                return summary
        return None
