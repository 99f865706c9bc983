"""Figures as people read them."""


def figure(value: float) -> float:
    """Six decimals: more than any score holds, and the same text on every machine."""
    return round(value, 6) + 0.0


def signed(value: float | None, digits: int = 3) -> str:
    """A gain for people: +0.034, or n/a."""
    return "n/a" if value is None else f"{value:+.{digits}f}"


def shown(score: float) -> str:
    """A leaderboard score for people: as many decimals as it has, at least two."""
    text = f"{score:.6f}".rstrip("0")
    return text + "0" * max(0, 2 - len(text.partition(".")[2]))
