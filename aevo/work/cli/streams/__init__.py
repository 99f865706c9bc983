"""What each agent says while it works, as turns of the trace: one module an agent.

    parser = parser_for("codex", session=1)
    for line in output: trace += parser.feed(line)
    trace += parser.end()

All of it is material: an agent can write into its own output what it likes. So its own tools are
named `own:…` and their calls numbered `own-…`: nothing in a transcript can pass for a call of a
worker's tools, which are on record from the socket that they came over (`desk.py`) and are left
out here. What is no line of the known kind is passed over; no line raises.
"""

from aevo.config.agent import Transcript
from aevo.work.cli.streams import (
    claude_code,
    codex,
    gemini_cli,
    mini_swe,
    opencode,
    openhands,
    plain_text,
)
from aevo.work.cli.streams.said import Parser, Reader

READERS: dict[Transcript, type[Reader]] = {
    "claude_code": claude_code.ClaudeCode,
    "codex": codex.Codex,
    "gemini_cli": gemini_cli.GeminiCli,
    "opencode": opencode.OpenCode,
    "openhands": openhands.OpenHands,
    "mini_swe": mini_swe.MiniSwe,
    "text": plain_text.PlainText,
}


def parser_for(kind: Transcript, session: int) -> Parser:
    """The parser of an agent's output.

    Args:
        session: number of the agent's start, so that its calls are not those of an earlier one.
    """
    return Parser(READERS[kind](), session)


__all__ = ["READERS", "Parser", "parser_for"]
