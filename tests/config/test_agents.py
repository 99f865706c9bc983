"""conf/agent: every file is a whole agent, and none can carry a key."""

import re
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from pydantic import ValidationError

from aevo.config.agent import CliAgent, EndpointSettings
from aevo.config.schema import ScriptedAgent, load
from tests.conftest import REPO

NAMES = sorted(path.stem for path in (REPO / "conf" / "agent").glob("*.yaml"))
OTHERS = [name for name in NAMES if name not in ("scripted", "openai", "vllm", "cli")]
# What `aevo/work/cli/inside.py` fills in; `{env:…}` is opencode's own.
WORDS = {"prompt", "prompt_file", "model", "url", "token", "tools", "home", "wait_s"}
WORDS |= {"context_tokens"}


def agent(name: str) -> ScriptedAgent | EndpointSettings:
    with initialize_config_dir(str(REPO / "conf"), version_base=None):
        return load(compose("config", [f"agent={name}", "agent.model=m"])).agent


@pytest.mark.parametrize("name", OTHERS)
def test_agents_of_others_are_whole(name: str) -> None:
    found = agent(name)
    assert isinstance(found, CliAgent) and found.name == name and found.transcript == name
    texts = [*found.command, *(found.again or []), *found.env.values(), *found.files.values()]
    named = {word for text in texts for word in re.findall(r"\{(\w+)\}", text)}
    assert named <= WORDS, "a word that nobody fills in"
    assert {"token", "url", "model"} <= named
    assert ("tools" in named) == (found.tools_by == "mcp")
    assert found.prompt_on_stdin or {"prompt", "prompt_file"} & named


def test_a_command_may_be_one_text() -> None:
    found = CliAgent.model_validate({"kind": "cli", "command": "mine --task '{prompt}'"})
    assert found.command == ["mine", "--task", "{prompt}"]


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"env": {"OPENAI_API_KEY": "0123456789abcdef-real"}}, "OPENAI_API_KEY"),
        ({"files": {"auth.json": '{"key": "sk-0123456789abcdef"}'}}, "auth.json"),
        ({"command": ["mine", "--key", "sk-0123456789abcdef"]}, "command"),
        ({"files": {"../outside": ""}}, "outside"),
        ({"files": {"/etc/passwd": ""}}, "/etc/passwd"),
        ({"transcript_file": "../trace.jsonl"}, "trace.jsonl"),
        ({"upstream": "https://user:word@host/v1"}, "api_key_env"),
        ({"name": "../x"}, "name"),
    ],
)
def test_keys_and_paths_that_lead_away_are_refused(given: dict[str, object], word: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(word)):
        CliAgent.model_validate({"kind": "cli", **given})


def test_the_ones_that_docs_name_are_there() -> None:
    text = Path(REPO / "docs" / "agents.md").read_text()
    assert all(f"| `{name}` |" in text for name in OTHERS)


def test_the_agent_of_twenty_lines_in_docs_is_one() -> None:
    text = Path(REPO / "docs" / "agents.md").read_text()
    block = next(part for part in text.split("```") if part.startswith("yaml\n# conf/agent/NAME"))
    assert len(block.strip().splitlines()) <= 21
    given = yaml.safe_load(block.removeprefix("yaml\n"))
    assert given.pop("defaults") == ["cli", "_self_"]
    found = CliAgent.model_validate({"kind": "cli", **given})
    assert found.command[0] == "mine" and found.read == ["/opt/mine"]
