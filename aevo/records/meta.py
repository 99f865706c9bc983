"""meta/: the meta step's proposal and the constitution's verdict on it."""

from aevo.records.discovery import Discovery
from aevo.records.io import Part, Record
from aevo.records.policy import Policy


class Proposal(Record):
    """The next policy as proposed, with the discoveries it rests on."""

    author: str
    policy: Policy
    discoveries: list[Discovery]


class RuleResult(Part):
    """One machine-checkable rule of the constitution applied to one proposal."""

    rule: str
    passed: bool
    text: str


class Verdict(Record):
    """All rules; a proposal becomes policy only if every rule passed."""

    proposal_sha256: str
    rules: list[RuleResult]

    @property
    def accepted(self) -> bool:
        """True if no rule was broken."""
        return all(rule.passed for rule in self.rules)
