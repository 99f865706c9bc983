from __future__ import annotations

from typing import Any, NamedTuple


class EnvironmentReturn(NamedTuple):
    observations: list[dict[str, str]]
    metadata: list[Any]
    next_stop_strings: list[Any]
    rewards: Any
    terminateds: Any
    answers: Any


class EnvironmentInterface: ...
