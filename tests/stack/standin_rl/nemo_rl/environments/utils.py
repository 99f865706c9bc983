from __future__ import annotations

import importlib
from typing import Any

from nemo_rl.distributed.ray_actor_environment_registry import ACTOR_ENVIRONMENT_REGISTRY

ENV_REGISTRY: dict[str, str] = {}


def register_env(env_name: str, actor_class_fqn: str) -> None:
    if env_name in ENV_REGISTRY:
        raise ValueError(f"Env name {env_name} already registered")
    ENV_REGISTRY[env_name] = actor_class_fqn


def create_env(env_name: str, env_config: dict[str, Any]) -> Any:
    name = ENV_REGISTRY[env_name]
    module, _, actor = name.rpartition(".")
    made = getattr(importlib.import_module(module), actor)
    return made.options(runtime_env={"py_executable": ACTOR_ENVIRONMENT_REGISTRY[name]}).remote(
        env_config
    )
