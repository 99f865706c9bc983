"""Configuration: every file composes, every mistake is one line that names the key."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from aevo.config.schema import load
from aevo.errors import ConfigError
from aevo.start.command import CONF
from tests.conftest import Cli

OPTIONS = sorted(f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml"))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_config_file_composes_and_validates(option: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = load(compose("config", overrides=[option]))
    assert config.campaign


def test_every_config_file_opens_with_its_launch_line() -> None:
    for path in CONF.rglob("*.yaml"):
        head = path.read_text().splitlines()[:4]
        assert any("python -m aevo." in line for line in head), f"{path} has no launch line"


def test_campaign_is_named_after_model_and_seed() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = load(compose("config", overrides=["seed=7"]))
    assert config.campaign == "tiny-seed7"
    assert config.root == Path("runs").resolve() / "tiny-seed7"


@pytest.mark.long(11)
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("workr.n=4", "worker"),
        ("worker.m=4", "worker.m"),
        ("worker.n=one", "worker.n"),
        ("worker.n=1", "greater than or equal to 2"),
        ("+nonsense=1", "nonsense"),
        ("model=gpt5", "Available options"),
        ("+round=0", "round"),
        ("campaign=../elsewhere", "campaign"),
        ("rounds=", "rounds"),
        ("worker.n=[", "worker.n"),
        ("evaluator.name='???'", "set evaluator.name=VALUE"),
        ("policy.axes=[no_such_axis]", "no_such_axis"),
        ("substrate=/no/where", "substrate.yaml"),
        ("constitution=/no/where", "constitution"),
    ],
)
def test_mistake_is_one_line_and_a_non_zero_exit(cli: Cli, override: str, expected: str) -> None:
    done = cli.run("round", override)
    assert done.returncode == ConfigError.code or "substrate.yaml" in expected
    assert done.returncode != 0
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert expected in done.stderr
