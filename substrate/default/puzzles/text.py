"""The terse prompt form: a head, `x -> y` lines, and the query `x -> ?`."""

from __future__ import annotations

HEADS = {
    "bits": "A rule maps bit strings.",
    "gravity": "Distance fallen d after time t.",
    "unit": "A unit is converted by a factor.",
    "numeral": "Write the number in roman numerals.",
    "cipher": "A cipher maps words.",
    "equation": "A symbol is an operation.",
}


def prompt(domain: str, examples: list[tuple[str, str]], query: str) -> str:
    """Head, examples and query, a line each."""
    lines = [HEADS[domain], *(f"{x} -> {y}" for x, y in examples), f"{query} -> ?"]
    return "\n".join(lines)


def parse(prompt: str) -> tuple[list[tuple[str, str]], str]:
    """Examples and query of a terse prompt."""
    lines = [line.split(" -> ") for line in prompt.splitlines() if " -> " in line]
    return [(x, y) for x, y in lines[:-1]], lines[-1][0]
