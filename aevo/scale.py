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
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from aevo import cli
from aevo.config import schema as configuration
from aevo.config.schema import Config
from aevo.errors import AevoError, ConfigError
from aevo.files.documents import problems, write_text
from aevo.start.command import CONF
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
            raise ConfigError("write takes one file and nothing else",
                              "python -m aevo.scale write docs/scale.md")
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
        raise ScaleError(f"{made.model.name}: {'; '.join(made.problems)}",
                         "change trainer, model.train or cluster.train")


def configured(words: list[str]) -> tuple[Settings, Config]:
    """The command's own keys of `words`, and the configuration that a campaign with the others
    would have.

    Raises:
        ConfigError: it cannot be composed, or is not valid.
    """
    settings, overrides = _parse(words)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return settings, configuration.load(compose("config", overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(" ".join(str(error).split()), "see conf/ for every key") from error


def _parse(arguments: list[str]) -> tuple[Settings, list[str]]:
    own = [word for word in arguments if word.partition("=")[0] in Settings.model_fields]
    try:
        data: Any = OmegaConf.to_container(OmegaConf.from_dotlist(own))
        settings = Settings.model_validate(data)
    except ValidationError as error:
        raise ConfigError(problems(error), "python -m aevo.scale --help") from error
    except OmegaConfBaseException as error:
        raise ConfigError(" ".join(str(error).split())) from error
    return settings, [word for word in arguments if word not in own]


if __name__ == "__main__":
    cli.run(main)
