"""Scale sheets: memory, layout, time, cost and traffic of a model's campaign, computed.

    python -m aevo.scale                                  the sheets of docs/scale.md
    python -m aevo.scale write docs/scale.md              writes them
    python -m aevo.scale cluster=h200 model=nemotron3_super_120b trainer.options.tensor=8
    python -m aevo.scale cluster=h200 model=nemotron3_nano_30b row_tokens=8192 check=true

Keys of conf/ mean what they mean in a campaign, and where model.base holds a config.json the
architecture is read from it. The command's own keys are the assumptions that a sheet ends with.
`check=true`: exit code 7 where the configuration has a problem, such as too little memory.
"""

from pathlib import Path

from aevo import cli
from aevo.config.schema import Config
from aevo.errors import AevoError, ConfigError
from aevo.files.documents import write_text
from aevo.start import command
from aevo.start.command import own_keys
from aevo.studies.scale import document, sheet
from aevo.studies.scale.assumptions import Assumptions
from aevo.studies.scale.table import table


class ScaleError(AevoError):
    """A configuration asks for more than its GPUs, nodes or limits have."""

    code = 7


class Settings(Assumptions):
    """The command's own keys."""

    check: bool = False


def main(arguments: list[str]) -> None:
    """Prints or writes sheets.

    Raises:
        ConfigError: an unknown key, model or GPU; ScaleError: `check`, and there are problems.
    """
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    if arguments[:1] == ["write"]:
        if len(arguments) != 2 or "=" in arguments[1]:
            raise ConfigError(
                "write takes one file and nothing else", "python -m aevo.scale write docs/scale.md"
            )
        write_text(Path(arguments[1]), document.text(configured))
        print(f"wrote {arguments[1]}")
        return
    if not arguments:
        print(document.text(configured), end="")
        return
    settings, config = configured(arguments)
    made = sheet.of(config, settings)
    print(table([made], [made.model.name]))
    print(document.assumptions(settings), end="")
    if settings.check and made.problems:
        raise ScaleError(
            f"{made.model.name}: {'; '.join(made.problems)}",
            "change trainer, model.train or cluster.train",
        )


def configured(words: list[str]) -> tuple[Settings, Config]:
    """The command's own keys of `words`, and the configuration that a campaign with the others
    would have.

    Raises:
        ConfigError: it cannot be composed, or is not valid.
    """
    settings, overrides = own_keys(Settings, words, "scale")
    return settings, command.configured(overrides)


if __name__ == "__main__":
    cli.run(main)
