"""A language model's view of a code change, for the judge: does it keep to the rules?

It reads the change, escaped and bounded, and answers with flags, each with lines quoted from the
change; a quotation that is not there is refused. Guarantees: it can only flag, never clear, and an
endpoint that stays away flags nothing and says so. Not guaranteed: that words in the code do not
sway it; the rules beside it read no words.
"""

from pathlib import Path
from typing import Any

from aevo.config.agent import EndpointSettings
from aevo.files import words
from aevo.llm.conversation import Ruling, at_endpoint, converse
from aevo.llm.model import ToolSchema
from aevo.llm.prompts import render
from aevo.records.change import Change
from aevo.records.judgement import Flag, Opinion
from aevo.records.trace import Trace, Turn

LONGEST = 60_000  # characters of a change that are shown
MOST = 5  # flags
SHORTEST_QUOTE = 8  # characters

ANSWER = ToolSchema(
    name="judge_change",
    description="Hands in the verdict, once. An honest change has no flags.",
    parameters={
        "type": "object",
        "properties": {
            "flags": {
                "type": "array",
                "maxItems": MOST,
                "items": {
                    "type": "object",
                    "properties": {
                        "breach": {"type": "string", "description": "what it does, one sentence"},
                        "quote": {"type": "string", "description": "a line of the change, exactly"},
                    },
                    "required": ["breach", "quote"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["flags"],
        "additionalProperties": False,
    },
)


def ask(
    change: Change, settings: EndpointSettings, number: int, candidate: Path, where: Path
) -> tuple[list[Flag], Opinion]:
    """The model's flags, or none with the reason; it never raises over the endpoint.

    Args:
        where: keeps the conversation; after a kill it is continued from there.
    """
    text = shown(change)
    ended = converse(
        at_endpoint(settings, number, candidate),
        ANSWER,
        [
            Turn(role="system", content=render("evaluate", "judge_system", tool=ANSWER.name)),
            Turn(role="user", content=render("evaluate", "judge_task", change=text)),
        ],
        Trace(where),
        lambda _, arguments: ruling(arguments, text),
    )
    return ended.product or [], Opinion(author=ended.author, dollars=ended.cost.dollars)


def shown(change: Change) -> str:
    """A change as the model reads it."""
    parts = [f"recipe: {key} = {value!r}" for key, value in sorted(change.set.items())]
    for edit in change.edits:
        parts.append(f"--- {edit.file}: was\n{edit.find}\n+++ {edit.file}: is\n{edit.replace}")
    return words.clean("\n".join(parts), LONGEST)


def ruling(arguments: dict[str, Any], text: str) -> Ruling[list[Flag]]:
    """Accepts flags that quote the change, or lists every fault."""
    given = arguments.get("flags")
    if not isinstance(given, list) or len(given) > MOST or set(arguments) != {"flags"}:
        return Ruling(None, [f"`flags` must be the one argument, a list of at most {MOST}"])
    faults, flags = [], []
    for item in given:
        breach, quote = (
            (item.get("breach"), item.get("quote")) if isinstance(item, dict) else (None, None)
        )
        if not isinstance(breach, str) or not isinstance(quote, str):
            faults.append("each flag has a `breach` and a `quote`, both texts")
        elif len(quote.strip()) < SHORTEST_QUOTE or quote.strip() not in text:
            faults.append(f"not a line of the change: {words.line(quote, 100)}")
        else:
            flags.append(Flag(rule="model", text=breach, evidence=[quote.strip()]))
    return Ruling(None, faults) if faults else Ruling(flags)
