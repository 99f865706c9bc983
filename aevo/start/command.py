"""Command lines of `key=value` words, composed by Hydra, their errors in one line."""

import difflib
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import hydra
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from aevo.cli import report, unread
from aevo.config.schema import Config, complaint, load
from aevo.errors import AevoError, ConfigError
from aevo.files.documents import Part, problems
from aevo.files.paths import CHECKOUT
from aevo.start import multirun
from aevo.text import one_line

# Options of Hydra's that are followed by a value.
VALUED = (
    "--config-dir",
    "-cd",
    "--config-path",
    "-cp",
    "--config-name",
    "-cn",
    "--package",
    "-p",
    "--experimental-rerun",
    "--shell-completion",
    "-sc",
)
CONF = CHECKOUT / "conf"
P = TypeVar("P", bound=Part)


def hydra_main(task: Callable[[Config], None]) -> Callable[[], None]:
    """Makes `task` an entry point with Hydra's command line, multirun included.

    A failed member of a multirun fails the command, after the others have run.
    """
    failures: list[AevoError] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def composed_task(composed: DictConfig) -> None:
        try:
            with multirun.member():
                task(load(composed))
        except AevoError as error:
            if multirun.is_job():
                raise  # to the command that waits for it
            report(error)
            failures.append(error)

    def entry() -> None:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # lets errors reach the handler below
        sys.argv[1:] = _flags_first(sys.argv[1:])
        try:
            with multirun.launch(sys.argv[1:], failures):
                composed_task()
            sys.stdout.flush()
        except (HydraException, OmegaConfBaseException) as error:
            failures.append(_explain(error))
            report(failures[-1])
        except AevoError as error:
            failures.append(error)
            report(error)
        except BrokenPipeError:
            unread()
        except KeyboardInterrupt:
            print("stopped; run the same command to go on", file=sys.stderr)
            sys.exit(130)
        if failures:
            sys.exit(failures[0].code)

    return entry


def own_keys(kind: type[P], words: list[str], name: str) -> tuple[P, list[str]]:
    """For a command with keys of its own: these of a `key=value` command line, validated; and the
    other words.

    Raises:
        ConfigError: a wrong value.
    """
    own = [word for word in words if word.partition("=")[0] in kind.model_fields]
    try:
        found = kind.model_validate(dotlist(own))
    except ValidationError as error:
        raise ConfigError(problems(error), f"python -m aevo.{name} --help") from error
    return found, [word for word in words if word not in own]


def dotlist(words: list[str]) -> dict[str, Any]:
    """The values of `key=value` words, by key.

    Raises:
        ConfigError: they are none.
    """
    try:
        found = OmegaConf.to_container(OmegaConf.from_dotlist(words))
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(str(error))) from error
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def configured(overrides: list[str]) -> Config:
    """The configuration that a campaign with these overrides would have.

    Raises:
        ConfigError: it cannot be composed, or is not valid.
    """
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return load(compose("config", overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_line(str(error)), "see conf/ for every key") from error


def _flags_first(arguments: list[str]) -> list[str]:
    """`+round=3 -m seed=1,2` as `-m +round=3 seed=1,2`: Hydra takes overrides in one piece only."""
    flags, overrides = [], []
    words = iter(arguments)
    for word in words:
        if not word.startswith("-"):
            overrides.append(word)
        elif word not in flags:
            flags.append(word)
            if word in VALUED and (value := next(words, None)) is not None:
                flags.append(value)
    return flags + overrides


def _explain(error: Exception) -> ConfigError:
    """Hydra's several lines as one, with the nearest known key."""
    cause = f" ({complaint(error.__cause__)})" if error.__cause__ else ""
    override = getattr(error, "override", None)  # what Hydra could not parse
    where = f"override {override!r}: " if override else ""
    text = where + complaint(error) + cause
    if "hydra/launcher/submitit" in text:
        return ConfigError(text, "install the launcher: pip install 'aevo[slurm]'")
    for word in text.replace("'", " ").split():
        near = difflib.get_close_matches(word.rstrip("."), _keys(), n=1, cutoff=0.8)
        if near and near[0] != word.rstrip("."):
            return ConfigError(text, f"did you mean {near[0]}?")
    return ConfigError(text, "see conf/ for every key and its meaning")


def _keys() -> list[str]:
    def walk(kind: type[Part], prefix: str) -> list[str]:
        found = []
        for name, field in kind.model_fields.items():
            found.append(prefix + name)
            for part in (field.annotation, *get_args(field.annotation)):
                if isinstance(part, type) and issubclass(part, Part):
                    found += walk(part, f"{prefix}{name}.")
        return found

    return walk(Config, "")
