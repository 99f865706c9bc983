"""python -m aevo.evidence verify runs/<campaign>: recomputes every figure of the evidence."""

from pathlib import Path

from aevo import cli
from aevo.errors import ConfigError, RecordError
from aevo.evidence.verify import verify
from aevo.files.paths import Layout
from aevo.policy import chain


def main(arguments: list[str]) -> None:
    """`verify FOLDER`: prints each difference.

    Raises:
        RecordError: a figure differs, or a record is missing or corrupt (exit code 3).
        ConfigError: wrong arguments.
    """
    if len(arguments) != 2 or arguments[0] != "verify":
        raise ConfigError("wrong arguments", "python -m aevo.evidence verify CAMPAIGN_FOLDER")
    layout = Layout(Path(arguments[1]))
    lines = [*verify(layout), *chain.broken(layout)]
    for line in lines:
        print(line)
    if lines:
        raise RecordError(f"{len(lines)} figures of the evidence do not follow from its records")
    print("every figure of the evidence follows from its records")


if __name__ == "__main__":
    cli.run(main)
