"""What the tool loop asks of a model, whoever answers: a language model or the scripted one."""

from typing import Any, Protocol

from aevo.files.documents import Part
from aevo.records.trace import Turn, Usage


class ToolSchema(Part):
    """A tool as offered to a model: name, purpose, JSON schema of its arguments."""

    name: str
    description: str
    parameters: dict[str, Any]


class Reply(Part):
    """A model's turn and what it cost."""

    turn: Turn
    usage: Usage = Usage()


class Model(Protocol):
    """One call, no memory: the conversation so far in, the next assistant turn out."""

    @property
    def name(self) -> str:
        """How manifests and traces name it."""

    def complete(self, turns: list[Turn], tools: list[ToolSchema]) -> Reply:
        """Returns the next assistant turn."""
