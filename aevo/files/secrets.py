"""What a secret looks like, by name and by shape, and text without it.

Everything that takes secrets out of what is written or shown asks here. Guaranteed: redacting twice
changes nothing more. Not guaranteed: a secret that looks like nothing of this kind stays.
"""

import os
import re
from collections.abc import Iterable
from typing import Any

HIDDEN = "[redacted]"
_SHORTEST = 8  # a shorter value of a variable named like a secret ("1", "false") is none

_VARIABLE = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
_HEADER = re.compile(rf"{_VARIABLE.pattern}|auth|cookie", re.IGNORECASE)
# In texts and settings the word must end the name: `max_tokens`, `tokenizer` and `key` are none;
# nor is a value that stands for one (`{token}`, `{env:NAME}`, `${...}`).
_NAME = (
    r"[\w.-]*(?:api[_-]?key|access[_-]?key|private[_-]?key|secret[_-]?key|secret|token"
    r"|passwd|password|credentials?)"
)
_ASSIGNED = re.compile(
    rf"(?i)(?P<name>(?<![\w.-])(?:{_NAME}[\"']?[ \t]*(?::=|=|:)[ \t]*|--{_NAME}[\"']?,?[ \t]+))"
    r"(?!\$\{|[\"']?\{[\w:]+\}|null\b|none\b|\[redacted\])(?P<value>\"[^\"\n]+\"|'[^'\n]+'|[^\s\"',;)}\]]+)"
)
_SENT = re.compile(
    r"\b((?i:bearer)\s+)[^\s\"',;}]{8,}"
    # A word of English follows `basic` too: of base64, one letter at least is none of lower case.
    r"|\b((?i:basic)\s+)(?=[a-z]*[A-Z0-9+/])[A-Za-z0-9+/]{12,}={0,2}"
)
_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:sk-[A-Za-z0-9_-]{6,}|hf_[A-Za-z0-9]{8,}|AKIA[0-9A-Z]{12,}|KGAT_\w+"
    r"|gh[pousr]_[A-Za-z0-9]{8,}|github_pat_\w{8,}|glpat-[\w-]{8,}|nvapi-[\w-]{8,}"
    r"|xox[abprs]-[\w-]{8,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+)"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----",
    re.DOTALL,
)


def variable(name: str) -> bool:
    """True for an environment variable whose name says that its value is a secret."""
    return _VARIABLE.search(name) is not None


def header(name: str) -> bool:
    """True for an HTTP header whose name says so."""
    return _HEADER.search(name) is not None


def without(text: str, known: Iterable[str | None]) -> str:
    """`text` without these secrets, and nothing else changed."""
    for secret in sorted(filter(None, known), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def hide(text: str, known: Iterable[str | None] = ()) -> str:
    """For what a server says: without these secrets and anything of a secret's shape."""
    sent = _SENT.sub(lambda found: (found[1] or found[2]) + HIDDEN, without(text, known))
    return _SHAPES.sub(HIDDEN, sent)


def redact(text: str) -> str:
    """For what is kept: also without the values of environment variables named like a secret, and
    values assigned to names such as api_key or password."""
    known = (
        value for name, value in os.environ.items() if variable(name) and len(value) >= _SHORTEST
    )
    return _ASSIGNED.sub(rf"\g<name>{HIDDEN}", hide(text, known))


def redact_value(value: Any, name: str = "") -> Any:
    """A JSON value, redacted text by text, and where a key is named like a secret."""
    if isinstance(value, dict):
        return {key: redact_value(item, str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [redact_value(item, name) for item in value]
    if not isinstance(value, str):
        return value
    return HIDDEN if value and re.fullmatch(_NAME, name, re.IGNORECASE) else redact(value)


def redact_words(words: list[str]) -> list[str]:
    """An argument vector, redacted; `--token VALUE` in two words too."""
    flags = ["", *words]
    return [
        HIDDEN if re.fullmatch(f"--{_NAME}", flag, re.IGNORECASE) else redact(word)
        for flag, word in zip(flags, words, strict=False)
    ]
