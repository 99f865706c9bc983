"""A stand-in for ray: actors in the caller's process, a cluster that is a file of `ray start`s."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

STARTED = Path(tempfile.gettempdir()) / "ray-started.jsonl"


def init(**settings: Any) -> None:
    assert settings["address"] == "auto"
    if not STARTED.is_file():
        raise ConnectionError("no Ray cluster here")


def shutdown() -> None: ...


def cluster_resources() -> dict[str, float]:
    nodes = [json.loads(line) for line in STARTED.read_text().splitlines()]
    return {"worker_units": sum(json.loads(node["resources"])["worker_units"] for node in nodes)}


def get(value: Any) -> Any:
    return value


class _Method:
    def __init__(self, call: Any) -> None:
        self.remote = call


class _Handle:
    def __init__(self, made: Any) -> None:
        self.made = made

    def __getattr__(self, name: str) -> _Method:
        return _Method(getattr(self.made, name))


def remote(cls: type) -> Any:
    def make(*arguments: Any) -> _Handle:
        return _Handle(cls(*arguments))

    def options(runtime_env: dict[str, Any]) -> Any:
        assert runtime_env["py_executable"]
        return SimpleNamespace(remote=make)

    return SimpleNamespace(options=options, remote=make)
