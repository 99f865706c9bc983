from __future__ import annotations

from typing import Any


def preference_preprocessor(*arguments: Any) -> Any:
    raise AssertionError("its own template would give other tokens")


def preferences(lines: Any, tokenizer: Any, limit: int) -> list[Any]:
    """As setup_preference_data: the module's own name, looked up when it is called."""
    numbered = enumerate(lines)
    return [preference_preprocessor(line, None, tokenizer, limit, n) for n, line in numbered]
