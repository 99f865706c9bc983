"""Text in a form in which copies look alike."""

import re
import unicodedata
from itertools import islice
from typing import Any

# A word, or one sign: spacing around signs does not matter.
TOKEN = re.compile(r"\w+|[^\w\s]")
# Characters that are not seen: zero-width ones, soft hyphens, directions, variation selectors.
UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)
ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|([nrtbf])|([\"\\/]))")
MAX_LEAVES = 100_000  # values of one row that are looked at one by one


def normal(text: str) -> str:
    """Unicode NFKC, case folded, unseen characters removed."""
    if text.isascii():
        return text.lower()
    return UNSEEN.sub("", unicodedata.normalize("NFKC", text)).casefold()


def compact(normalised: str) -> str:
    """Without any white space: equal for texts that differ in spacing and line breaks only."""
    return "".join(normalised.split())


def tokens(normalised: str) -> list[str]:
    """Words and signs."""
    return TOKEN.findall(normalised)


def unescape(text: str) -> str:
    """Text that could not be read as JSON, with its escapes undone as far as they are plain."""
    if "\\" not in text:
        return text
    return ESCAPE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code, blank, sign = match.groups()
    return chr(int(code, 16)) if code else " " if blank else sign


def leaves(value: Any) -> list[str]:
    """All strings and numbers of a JSON value in order, objects being lists of pairs; names of
    fields that are long enough to hold text are added at the end."""
    return list(islice(_walk(value), MAX_LEAVES))


def _walk(value: Any) -> Any:
    names: list[str] = []
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Pairs):
            names += [key for key, _ in item if len(key) > 24]
            stack += [value for _, value in reversed(item)]
        elif isinstance(item, list):
            stack += reversed(item)
        elif isinstance(item, int | float) and not isinstance(item, bool):
            yield str(item)
    yield from names


class Pairs(list[tuple[str, Any]]):
    """A JSON object, a name that occurs twice being kept twice."""
