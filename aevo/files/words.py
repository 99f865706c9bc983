"""Words of workers and models at the border: what a terminal, a page or a record may be given.

Records keep words as `clean` leaves them: no character that moves a cursor, turns the direction of
writing or is half of one, and no more of them than the field may hold. Where words are rendered,
`line` makes one line of them, and `markdown` takes from that line what opens HTML, an image or a
link. Guarantees: none of them raises, whatever the text; each leaves what it made as it is. Not
guaranteed: that words are true, or obey nobody.
"""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

# Control characters but tab and line feed; escape sequences whole; half characters; and those that
# turn the direction of writing or are not seen.
ESCAPES = re.compile(
    "\x1b\\[[0-9;?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]{0,200}(?:\x07|\x1b\\\\)|\x9b[0-9;?]*[ -/]*[@-~]"
)
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
HALVES = re.compile("[\ud800-\udfff]")
HTML = re.compile(r"<(?=[A-Za-z/!?])")
SHORT, LONG = 300, 4000  # characters of a line, and of a text of several
ITEMS = 20  # of a list of texts


def clean(text: Any, longest: int = LONG) -> str:
    """Text of at most `longest` characters that no terminal obeys; line breaks stay."""
    found = str(text)[: 4 * longest].replace("\r\n", "\n").replace("\r", "\n")
    found = HALVES.sub("\ufffd", UNSEEN.sub("", ESCAPES.sub("", found)))
    return found if len(found) <= longest else found[: longest - 1] + "…"


def line(text: Any, longest: int = SHORT) -> str:
    """`clean`, on one line."""
    found = " ".join(clean(text, 4 * longest).split())
    return found if len(found) <= longest else found[: longest - 1] + "…"


def markdown(text: Any, longest: int = LONG) -> str:
    """A line of Markdown in which foreign words may stand: it stays one line, and opens no HTML,
    no image and no link. Blanks at its start are kept."""
    text = str(text)
    found = HTML.sub("&lt;", line(text, longest))
    blanks = len(text) - len(text.lstrip(" "))
    return " " * min(blanks, 8) + found.replace("![", "!\\[").replace("](", "]\\(")


def cell(text: Any, longest: int = LONG) -> str:
    """Foreign words in a cell of a Markdown table."""
    found = line(text, longest)
    for plain, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|")):
        found = found.replace(plain, safe)
    return markdown(found, 2 * longest)


def whole(value: Any) -> Any:
    """A JSON value whose texts can be written: half characters are replaced."""
    if isinstance(value, str):
        return HALVES.sub("\ufffd", value)
    if isinstance(value, dict):
        return {whole(key): whole(item) for key, item in value.items()}
    return [whole(item) for item in value] if isinstance(value, list) else value


def _words(value: Any) -> Any:
    return clean(value) if isinstance(value, str) else value


def _one_line(value: Any) -> Any:
    return line(value) if isinstance(value, str) else value


def _several(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    kept = [clean(item, 2 * SHORT) if isinstance(item, str) else item for item in value[:ITEMS]]
    return (
        [*kept, f"… {len(value) - ITEMS} more"]
        if len(value) > ITEMS + 1
        else [*kept, *map(_one_line, value[ITEMS:])]
    )


# Fields of records that a worker or a model fills.
Words = Annotated[str, BeforeValidator(_words)]
Line = Annotated[str, BeforeValidator(_one_line)]
Several = Annotated[list[str], BeforeValidator(_several)]
Whole = Annotated[str, BeforeValidator(whole)]
WholeMap = Annotated[dict[str, Any], BeforeValidator(whole)]


def clean_text(value: Any) -> Any:
    """`clean` for a template's texts, whatever their length; other values are left."""
    return clean(value, len(value) + 1) if type(value) is str else value


def markdown_text(value: Any) -> Any:
    """`markdown` for a template's texts; other values are left."""
    return markdown(value) if type(value) is str else value
