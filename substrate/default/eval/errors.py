"""What ends an evaluation in one line."""


class EvaluationError(ValueError):
    """The items, the base or what decodes are not usable; the message is one line."""
