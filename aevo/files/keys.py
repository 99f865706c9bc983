"""Nested keys by their dotted names, as `train.lora.rank`."""

from typing import Any


def flat(values: dict[str, Any]) -> dict[str, str]:
    """Recipe keys down to their leaves, with values as comparable text."""
    leaves: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            leaves.update(flat({f"{key}.{name}": item for name, item in value.items()}))
        else:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            leaves[key] = repr(float(value) if number else value)
    return leaves


def set_key(data: dict[str, Any], dotted: str, value: Any) -> None:
    """Sets `a.b.c` in nested mappings, making the mappings that are missing."""
    *parents, last = dotted.split(".")
    for parent in parents:
        child = data.get(parent)
        if not isinstance(child, dict):
            child = data[parent] = {}
        data = child
    data[last] = value


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys: `{train: {steps: 5}}` as `{train.steps: 5}`."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def get_key(data: dict[str, Any], dotted: str) -> Any:
    """The value at `a.b.c`, or None if any part is missing."""
    value: Any = data
    for part in dotted.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value
