"""The small exception tree of aevo.

Every error that a user can cause or mend is an `AevoError`: the entry points print it as one line
on stderr and exit with `code`, without a traceback. Anything else is a defect and shows its
traceback.
"""


class AevoError(Exception):
    """A problem named with what, where and how to mend it, in one line.

    Args:
        what: what is wrong, and where (a path, a key, a job).
        mend: what the user can do about it; appended after ` -- `.
    """

    code = 2

    def __init__(self, what: str, mend: str = "") -> None:
        self.what, self.mend = what, mend
        super().__init__(f"{what} -- {mend}" if mend else what)


class ConfigError(AevoError):
    """A key or override is unknown, of the wrong type, or contradicts the campaign's pins."""


class RecordError(AevoError):
    """A record on disk is missing, torn or does not validate."""

    code = 3


class SubstrateError(AevoError):
    """The substrate or the constitution is not the one that was frozen or pinned."""

    code = 4


class JobError(AevoError):
    """A job could not be submitted, or ended without doing its work."""

    code = 5


class ConstitutionError(AevoError):
    """A proposal or record breaks a rule of the constitution."""

    code = 6
