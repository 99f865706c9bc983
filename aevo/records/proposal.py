"""meta/: the meta step's proposal and the constitution's verdict on it."""

from typing import Any

from aevo.files.documents import Part, Record
from aevo.records.discovery import Discovery
from aevo.records.manifest import Cost
from aevo.records.policy import Policy
from aevo.records.trace import Turn


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


class Prompt(Record):
    """prompt.json: what the meta model was given; its first turn is the constitution, verbatim."""

    turns: list[Turn]


class Attempt(Record):
    """proposal-N.json: the model's N-th call as it came, and the proposal that code made of it.

    `proposal` is None if the call was not a draft; verdict-N.json says what was wrong.
    """

    arguments: dict[str, Any]
    proposal: Proposal | None


class Session(Record):
    """session.json: who made the round's proposal, and what asking a model for it cost.

    `refusals` counts the model's replies that were refused; `reason` says why the rules stand in.
    """

    author: str
    model: str
    refusals: int
    reason: str | None
    cost: Cost
