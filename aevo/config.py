"""The configuration: composed by Hydra from `conf/`, validated here, whole, before anything runs.

Every entry point that takes overrides is wrapped by `hydra_main`; composition errors, unknown keys
and wrong types end in one line that names the key and what it may be.
"""

import difflib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError

from aevo.agent.settings import EndpointSettings
from aevo.change import get_key
from aevo.choice import EvaluatorSettings, TrainerSettings
from aevo.cli import report
from aevo.cluster import ClusterSettings
from aevo.errors import AevoError, ConfigError
from aevo.leaderboard.settings import BoardSettings
from aevo.policy import PolicySettings
from aevo.records.io import Part, problems
from aevo.records.job import Resources
from aevo.sandbox.model import Setting

# Hydra and OmegaConf are imported by what composes: jobs read a configuration that is composed.
if TYPE_CHECKING:
    from omegaconf import DictConfig

# Options of Hydra's that are followed by a value.
VALUED = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package", "-p",
          "--experimental-rerun", "--shell-completion", "-sc")
CONF = Path(__file__).parents[1] / "conf"
# What later commands may not change; `aevo.start` compares these with campaign.yaml.
PINNED = ("seed", "model", "trainer.name", "evaluator.name", "agent.kind", "leaderboard", "policy",
          "substrate", "constitution", "worker.n")


class ModelSettings(Part):
    """conf/model: the base checkpoint, its benchmark preset and what its jobs need."""

    name: str
    base: str
    prepare: str | None
    preset: str
    dev_items: PositiveInt
    hidden_items: PositiveInt
    items_seed: NonNegativeInt | None
    source: str | None = None
    recipe: dict[str, Any]
    train: Resources
    evaluate: Resources


class WorkerSettings(Part):
    """The budget of a candidate and the size of a round."""

    n: int = Field(ge=2, le=64)
    trainings: PositiveInt
    anchor_seeds: PositiveInt
    turns: int = Field(ge=8)
    wall_s: PositiveInt
    tokens: PositiveInt | None
    dollars: float | None = Field(gt=0)
    gpu_hours: float | None = Field(gt=0)
    failures: PositiveInt


class ScriptedAgent(Part):
    """conf/agent/scripted: rules instead of a model."""

    kind: Literal["scripted"]


AgentSettings = Annotated[ScriptedAgent | EndpointSettings, Field(discriminator="kind")]


class Config(Part):
    """The whole configuration of one command."""

    campaign: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.=,-]*$")
    runs: str
    seed: NonNegativeInt
    rounds: PositiveInt
    substrate: str | None
    constitution: str | None
    worker: WorkerSettings
    model: ModelSettings
    trainer: TrainerSettings = TrainerSettings(name="peft")
    evaluator: EvaluatorSettings = EvaluatorSettings(name="auto")
    cluster: ClusterSettings
    agent: AgentSettings
    leaderboard: BoardSettings
    sandbox: Setting
    policy: PolicySettings
    follow: bool
    dry_run: bool
    catch_up: NonNegativeInt
    round: PositiveInt | None = None

    @property
    def root(self) -> Path:
        """The campaign's folder, absolute."""
        return Path(self.runs).resolve() / self.campaign

    def pinned(self) -> dict[str, Any]:
        """The values that a campaign fixes when it starts, by key."""
        data = self.model_dump(mode="json")
        board = data["leaderboard"]
        data["leaderboard"] = {key: board[key] for key in board if key not in self.leaderboard.free}
        return {key: get_key(data, key) for key in PINNED}


def load(composed: "DictConfig") -> Config:
    """Validates a composed configuration.

    Raises:
        ConfigError: every unknown key and wrong value, in one line.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        data = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key
        raise ConfigError(f"{key} has no default",
                          f"set {key}=VALUE; its file in conf/ says what it is") from error
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(str(error))) from error
    try:
        return _with_whole_paths(Config.model_validate(data))
    except ValidationError as error:
        raise ConfigError(
            f"configuration: {problems(error)}", "see conf/ for every key and its meaning"
        ) from error


def _with_whole_paths(config: Config) -> Config:
    """Paths of the agent's and of the data made absolute: jobs read them in other folders."""
    if config.model.source is not None:
        source = str(Path(config.model.source).expanduser().resolve())
        config = config.model_copy(update={
            "model": config.model.model_copy(update={"source": source})})
    if not isinstance(config.agent, EndpointSettings):
        return config
    given = {key: getattr(config.agent, key) for key in ("record", "api_key_file")}
    whole = {key: str(Path(path).expanduser().resolve()) for key, path in given.items() if path}
    return config.model_copy(update={"agent": config.agent.model_copy(update=whole)})


def hydra_main(task: Callable[[Config], None]) -> Callable[[], None]:
    """Makes `task` an entry point with Hydra's command line, multirun included.

    A failed member of a multirun fails the command, after the others have run.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from aevo import multirun

    failures: list[AevoError] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def composed_task(composed: "DictConfig") -> None:
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
        except (HydraException, OmegaConfBaseException) as error:
            failures.append(_explain(error))
            report(failures[-1])
        except AevoError as error:
            failures.append(error)
            report(error)
        except KeyboardInterrupt:
            print("stopped; run the same command to go on", file=sys.stderr)
            sys.exit(130)
        if failures:
            sys.exit(failures[0].code)

    return entry


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
    cause = f" ({_one_line(str(error.__cause__))})" if error.__cause__ else ""
    override = getattr(error, "override", None)  # what Hydra could not parse
    where = f"override {override!r}: " if override else ""
    text = where + _one_line(str(error)) + cause
    if "hydra/launcher/submitit" in text:
        return ConfigError(text, "install the launcher: pip install 'aevo[slurm]'")
    for word in text.replace("'", " ").split():
        near = difflib.get_close_matches(word.rstrip("."), _keys(), n=1, cutoff=0.8)
        if near and near[0] != word.rstrip("."):
            return ConfigError(text, f"did you mean {near[0]}?")
    return ConfigError(text, "see conf/ for every key and its meaning")


def _one_line(text: str) -> str:
    for noise in ("Config search path", "full_key:", "See https://hydra.cc"):
        text = text.split(noise)[0]
    return " ".join(text.split())


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
