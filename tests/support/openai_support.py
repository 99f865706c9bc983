"""What the tests of the endpoint client share."""

import os
from typing import Any

import pytest

from aevo.config.agent import EndpointSettings
from aevo.llm.client import OpenAIModel
from aevo.llm.model import ToolSchema
from aevo.llm.retry import Kind
from aevo.records.trace import ToolCall, Turn
from tests.support.fake_openai import FakeOpenAI

os.environ["NO_PROXY"] = "127.0.0.1"  # also for the processes that a test starts
KEY = "sk-test-5f3759df0badc0de"
SYSTEM = Turn(role="system", content="You are a test.")
TASK = Turn(role="user", content="Do the task.")
OPENING = [SYSTEM, TASK]
READ = ToolSchema(
    name="read_file",
    description="Read a file.",
    parameters={"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
)
RUN = ToolSchema(
    name="run",
    description="Run <it> & see.",
    parameters={"type": "object", "properties": {"command": {"type": "string"}}},
)
TOOLS = [READ, RUN]
both = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


class Waits:
    """Stands in for sleep and on_retry, and keeps what they were told."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.retries: list[tuple[Kind, int, float, str]] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def on_retry(self, kind: Kind, attempt: int, wait_s: float, text: str) -> None:
        self.retries.append((kind, attempt, wait_s, text))

    def kinds(self) -> list[Kind]:
        return [retry[0] for retry in self.retries]


@pytest.fixture
def waits() -> Waits:
    return Waits()


def settings(server: FakeOpenAI | None, **given: Any) -> EndpointSettings:
    where = {} if server is None else {"base_url": server.url, "model": server.model}
    return EndpointSettings.model_validate({**where, **given})


def client(server: FakeOpenAI, waits: Waits | None = None, **given: Any) -> OpenAIModel:
    waits = waits or Waits()
    return OpenAIModel(settings(server, **given), on_retry=waits.on_retry, sleep=waits.sleep)


def says(**reply: Any) -> Any:
    """A brain that always gives the same reply."""
    return lambda request: reply


def calls(*items: tuple[str, str, Any]) -> list[dict[str, Any]]:
    return [{"id": id_, "name": name, "arguments": arguments} for id_, name, arguments in items]


def conversation(*outputs: str, name: str = "read_file") -> list[Turn]:
    """Opening, then a call and its output for each of `outputs`."""
    turns = [*OPENING]
    for number, output in enumerate(outputs):
        call = ToolCall(id=f"id{number}", name=name, arguments={"path": f"f{number}"})
        turns += [
            Turn(role="assistant", content="", tool_calls=[call]),
            Turn(role="tool", tool_call_id=call.id, content=output),
        ]
    return turns
