"""cancelled.json: a person took a candidate out of its round."""

from aevo.records.io import Record


class Cancelled(Record):
    """`time` is Unix seconds, `by` the user's name."""

    candidate: str
    time: float
    by: str
