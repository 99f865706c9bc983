"""An endpoint: where it is served, its key, the connection, and what went wrong on it.

A key is read when it is used, from an environment variable or a file, and is never part of the
settings, a record, a message or a `repr`.
"""

import importlib
import importlib.util
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import openai
from pydantic import field_validator

from aevo.config.agent import EndpointSettings, checked_url
from aevo.errors import ConfigError, RecordError
from aevo.files import secrets
from aevo.files.documents import Foreign, read
from aevo.llm.answers import BadAnswer, ErrorAnswer, Unfinished
from aevo.llm.retry import EndpointError, Failure, Kind, classify, classify_body

# The HTTP library of `openai`, another one in its newer versions; its errors may come through.
HTTP = importlib.import_module("httpx2" if importlib.util.find_spec("httpx2") else "httpx")
# Its debug log holds the headers of answers, and a server may say the key back in one.
for _name in ("httpcore", "httpcore2"):
    logging.getLogger(_name).setLevel(logging.INFO)
NO_KEY = "none"  # sent where no key is set: endpoints without keys do not look at it

T = TypeVar("T")


class EndpointRecord(Foreign):
    """What a served agent leaves for those who use it; rewritten when it moves."""

    schema_version: Literal[1]
    base_url: str
    model: str
    api_key_file: str | None = None

    @field_validator("base_url")
    @classmethod
    def _an_address(cls, value: str) -> str:
        return checked_url(value)


class Endpoint(NamedTuple):
    """An address as it is now."""

    base_url: str
    model: str
    api_key_file: str | None


def locate(settings: EndpointSettings) -> Endpoint:
    """The address: from the record if one is named (read anew each time), else from the settings.

    Raises:
        ConfigError: neither a record nor both of base_url and model.
        EndpointError: kind `connection`: the record is not there (yet) or cannot be used.
    """
    if settings.record is None:
        if settings.base_url is None or settings.model is None:
            lacking = "base_url" if settings.base_url is None else "model"
            raise ConfigError(
                f"agent.{lacking} is not set",
                "agent=openai agent.base_url=https://HOST/v1 agent.model=NAME",
            )
        return Endpoint(settings.base_url, settings.model, settings.api_key_file)
    problem = ""
    try:
        record = read(EndpointRecord, Path(settings.record))
        return Endpoint(record.base_url, record.model, settings.api_key_file or record.api_key_file)
    except RecordError as error:
        problem = error.what
    raise EndpointError(
        f"no served agent is known: {problem}",
        "start one (slurm/serve_agent.sbatch) and wait until it has written this record",
        kind=Kind.CONNECTION,
    )


class KeyHolder:
    """Reads the key at use and takes it out of any text.

    The keys read so far are remembered, only so that `clean` also knows one that was replaced.
    """

    __slots__ = ("_env", "_file", "_seen")

    def __init__(self, env: str | None, file: str | None) -> None:
        self._env, self._file = env, file
        self._seen: set[str] = set()

    def __repr__(self) -> str:
        return f"KeyHolder({self.source})"

    def __reduce__(self) -> str:
        raise TypeError("a key holder is not to be pickled")

    @property
    def source(self) -> str:
        """Where the key comes from, in words; never the key."""
        if self._file is not None:
            return f"the file {self._file}"
        return f"the environment variable {self._env}" if self._env else "nowhere"

    @property
    def named(self) -> bool:
        """True if a variable or a file is named for the key."""
        return self._file is not None or self._env is not None

    @property
    def there(self) -> bool:
        """True if a key is sent: a file is named, or the variable is set."""
        return self._file is not None or bool(os.environ.get(self._env or "", "").strip())

    def point_to(self, file: str | None) -> None:
        """From now on the key is in `file` (a served agent that moved may have a new one)."""
        self._file = file

    def read(self) -> str | None:
        """The key as it is now; None if no file is named and the variable is not set.

        Raises:
            EndpointError: kind `auth`: the file is missing, open to others, or holds no key.
        """
        key = self._from_file() if self._file is not None else os.environ.get(self._env or "")
        if key is None or (self._file is None and not key.strip()):
            return None
        key = key.strip()
        # An illegal header value would be quoted, whole, in the HTTP library's error.
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise EndpointError(
                f"{self.source} holds no usable key (one line of printable ASCII, no spaces)",
                "write the key and nothing else",
                kind=Kind.AUTH,
            )
        self._seen.add(key)
        return key

    def clean(self, text: str) -> str:
        """The text without any key read so far."""
        return secrets.without(text, self._seen)

    def scrub(self, text: str) -> str:
        """For what a server says in an error: also without anything that looks like a key, on one
        line, without control characters, at most 300 characters."""
        text = secrets.hide(text, self._seen)
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return line if len(line) <= 300 else line[:297] + "…"

    def _from_file(self) -> str:
        path = Path(self._file or "").expanduser()
        problem = ""
        try:
            mode = path.stat().st_mode & 0o777
            if mode & 0o077:
                raise EndpointError(
                    f"the key file {path} can be read by others (mode {mode:04o})",
                    f"chmod 600 {path}",
                    kind=Kind.AUTH,
                )
            return path.read_text(encoding="ascii", errors="replace")
        except OSError as error:
            problem = error.strerror or str(error)
        raise EndpointError(
            f"the key file {path} cannot be read ({problem})",
            "write the key to it and chmod 600 it, or name another in agent.api_key_file",
            kind=Kind.AUTH,
        )


def shown_url(url: str) -> str:
    """The address without a query, for messages."""
    return url.split("?")[0].split("#")[0].rstrip("/")


def open_client(
    settings: EndpointSettings, endpoint: Endpoint, key: str, longest_s: float | None = None
) -> openai.OpenAI:
    """A client that retries nothing by itself."""
    total = min(settings.timeout_s, longest_s or settings.timeout_s)
    return openai.OpenAI(
        base_url=endpoint.base_url,
        api_key=key,
        max_retries=0,
        timeout=openai.Timeout(total, connect=min(settings.connect_timeout_s, total)),
        default_headers=settings.extra_headers or None,
    )


def json_of(response: Any) -> Any:
    """The body of an HTTP response, parsed.

    Raises:
        BadAnswer: it is not JSON.
    """
    response.read()
    text = response.text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    raise BadAnswer(f"{response.headers.get('content-type') or 'no content type'}: {text[:2000]}")


def guarded(request: Callable[[], T], clock: Callable[[], float], keys: KeyHolder) -> T | Failure:
    """Runs one request. Every error becomes a Failure here, so that no exception that holds the
    request, and with it the key, is in the chain of one that is raised later."""
    try:
        return request()
    except (openai.OpenAIError, HTTP.HTTPError, HTTP.InvalidURL, ErrorAnswer) as error:
        return _failure_from(error, clock(), keys)
    except Unfinished as error:
        return Failure(Kind.CONNECTION, str(error))
    except TimeoutError as error:
        return Failure(Kind.TIMEOUT, str(error))
    except (BadAnswer, ValueError, RecursionError) as error:
        return Failure(Kind.MALFORMED, keys.scrub(f"not a chat completion: {error}"))
    except EndpointError as error:
        return Failure(error.kind, error.what, mend=error.mend)


def _failure_from(error: Exception, now: float, keys: KeyHolder) -> Failure:
    """The class of an exception of `openai`, its HTTP library, or an error within an answer."""
    if isinstance(error, openai.APIStatusError):
        return classify(
            error.status_code, error.response.headers, error.response.text, now, keys.scrub
        )
    if isinstance(error, ErrorAnswer):
        return classify_body(error.error, now, keys.scrub)
    if isinstance(error, HTTP.InvalidURL):
        return Failure(Kind.NOT_FOUND, keys.scrub(str(error)))
    if isinstance(error, openai.APITimeoutError | HTTP.TimeoutException):
        return Failure(Kind.TIMEOUT, "no answer in time")
    if isinstance(error, openai.APIConnectionError | HTTP.HTTPError):
        cause = error.__cause__ or error
        return Failure(Kind.CONNECTION, keys.scrub(str(cause) or type(cause).__name__))
    return classify_body(getattr(error, "body", None) or str(error), now, keys.scrub)


def final_error(
    failure: Failure, endpoint: Endpoint | None, keys: KeyHolder, tries: str = ""
) -> EndpointError:
    """The one line a person reads: what, where, how to mend it."""
    where = "agent endpoint"
    if endpoint is not None:
        where = f"agent endpoint {shown_url(endpoint.base_url)}, model {endpoint.model}"
    source = keys.source if keys.named else "agent.api_key_env or agent.api_key_file"
    mends = {
        Kind.AUTH: f"check the key in {source}"
        if keys.there
        else f"no key was sent: put it in {source}",
        Kind.QUOTA: "add credit or use another key, then run the same command again",
        Kind.NOT_FOUND: "check agent.base_url (most end in /v1) and agent.model",
        Kind.BAD_REQUEST: "lower agent.context_tokens"
        if failure.context_exceeded
        else "agent.tools=text"
        if failure.tools_refused
        else "check agent.temperature, agent.max_tokens and agent.extra_body",
        Kind.MALFORMED: "check agent.base_url (most end in /v1) and what lies between",
        Kind.RATE_LIMIT: "fewer workers at once, or raise agent.max_wait_s and agent.retries",
        Kind.TIMEOUT: "raise agent.timeout_s, or see whether the server is overloaded",
        Kind.CONNECTION: "see whether the server runs and can be reached from this machine",
        Kind.SERVER: "see the server's log or status page, then run the same command again",
    }
    words = str(failure.kind).replace("_", " ")
    return EndpointError(
        f"{where}: {words}{tries}: {failure.text}",
        failure.mend or mends[failure.kind],
        kind=failure.kind,
    )
