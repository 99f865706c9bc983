"""Texts from outside (a server, a log, an agent) as our messages and tables show them."""

from collections.abc import Sequence


def one_line(text: str, longest: int | None = None) -> str:
    """One line of at most `longest` characters, without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if longest is None else cut(line, longest)


def cut(line: str, longest: int) -> str:
    """The beginning of a line that is longer than `longest` characters, with a mark that it is."""
    return line if len(line) <= longest else line[: longest - 1] + "…"


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list, with a mark if there are more."""
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")
