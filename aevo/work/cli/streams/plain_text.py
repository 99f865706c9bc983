"""Any other agent: what it prints, some lines a turn."""

from typing import Any

from aevo.records.trace import Turn
from aevo.work.cli.streams.said import says

LINES = 40  # of one turn


class PlainText:
    """Keeps the output as it is."""

    plain = True

    def __init__(self) -> None:
        self.lines: list[str] = []

    def read(self, said: Any) -> list[Turn]:
        self.lines.append(str(said).rstrip("\n"))
        return self.end() if len(self.lines) >= LINES else []

    def end(self) -> list[Turn]:
        lines, self.lines = self.lines, []
        return says("\n".join(lines))
