"""chain.json: what a finished round was made of and led to, by digest, and the link before it."""

from aevo.files.documents import Part, Record
from aevo.files.words import Line, Words


class Amendment(Part):
    """An operator's edit of one file after the fact: allowed, and on record."""

    file: str
    was: str | None
    now: str
    reason: Words
    by: Line
    time: str


class Link(Record):
    """One round: sha256 of each record, by its path in the campaign folder, and of the link of the
    round before (None for the first)."""

    round: int
    previous: str | None
    files: dict[str, str]
    amendments: list[Amendment] = []
