"""The configuration: composed by Hydra from `conf/`, validated here, whole, before anything runs.

Every entry point that takes overrides is wrapped by `hydra_main`; composition errors, unknown keys
and wrong types end in one line that names the key and what it may be.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from aevo.config.agent import CliAgent, EndpointSettings
from aevo.config.cluster import ClusterSettings
from aevo.config.leaderboard import BoardSettings
from aevo.config.policy import PolicySettings
from aevo.config.trainer import EvaluatorSettings, TrainerSettings
from aevo.errors import ConfigError
from aevo.files import documents
from aevo.files.documents import Part, problems
from aevo.files.keys import get_key
from aevo.files.paths import RoundLayout
from aevo.records.job import Resources, Setting
from aevo.text import one_line

# OmegaConf is imported by what composes: jobs read a configuration that is composed.
if TYPE_CHECKING:
    from omegaconf import DictConfig

# What later commands may not change; `aevo.start.opening` compares these with campaign.yaml.
PINNED = (
    "seed",
    "model",
    "trainer.name",
    "evaluator.name",
    "agent.kind",
    "leaderboard",
    "policy",
    "substrate",
    "constitution",
    "worker.n",
)


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
    shell_s: PositiveInt | None = 7200
    questions: NonNegativeInt = 20


class WatchdogSettings(Part):
    """When a training or an evaluation that writes nothing any more is ended as hung."""

    steps: PositiveFloat | None = 50.0
    least_min: PositiveFloat = 10.0
    first_min: PositiveFloat = 120.0


class ScriptedAgent(Part):
    """conf/agent/scripted: rules instead of a model."""

    kind: Literal["scripted"]


class NoTeacher(Part):
    """conf/teacher/none: no model answers questions."""

    kind: Literal["none"] = "none"


TeacherSettings = Annotated[NoTeacher | EndpointSettings, Field(discriminator="kind")]
AgentSettings = Annotated[ScriptedAgent | EndpointSettings | CliAgent, Field(discriminator="kind")]


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
    teacher: TeacherSettings = NoTeacher()
    knowledge: str | None = None
    leaderboard: BoardSettings
    sandbox: Setting
    watchdog: WatchdogSettings = WatchdogSettings()
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
        raise ConfigError(
            f"{key} has no default", f"set {key}=VALUE; its file in conf/ says what it is"
        ) from error
    except OmegaConfBaseException as error:
        raise ConfigError(complaint(error)) from error
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
        config = config.model_copy(
            update={"model": config.model.model_copy(update={"source": source})}
        )
    if config.knowledge is not None:
        folder = Path(config.knowledge).expanduser().resolve()
        if not folder.is_dir():
            raise ConfigError(
                f"knowledge={config.knowledge} is no folder", "give a folder of texts"
            )
        config = config.model_copy(update={"knowledge": str(folder)})
    whole = {
        name: _whole_endpoint(settings)
        for name, settings in (("agent", config.agent), ("teacher", config.teacher))
        if isinstance(settings, EndpointSettings)
    }
    return config.model_copy(update=whole)


def _whole_endpoint(settings: EndpointSettings) -> EndpointSettings:
    given = {key: getattr(settings, key) for key in ("record", "api_key_file")}
    whole = {key: str(Path(path).expanduser().resolve()) for key, path in given.items() if path}
    return settings.model_copy(update=whole)


def complaint(error: BaseException) -> str:
    """What Hydra or OmegaConf says, without where it looked and its own keys."""
    text = str(error)
    for noise in ("Config search path", "full_key:", "See https://hydra.cc"):
        text = text.split(noise)[0]
    return one_line(text)


def endpoint_of(folder: RoundLayout) -> EndpointSettings | None:
    """The endpoint that the round was configured with; None for the scripted agent, and for a
    folder without a configuration.

    Raises:
        RecordError: the round's configuration is corrupt.
    """
    if not folder.config.exists():
        return None
    agent = documents.read(Config, folder.config).agent
    return agent if isinstance(agent, EndpointSettings) else None
